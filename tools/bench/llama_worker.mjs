// llama.cpp as an engine: loads a GGUF file once, then answers a line of JSON on standard input with a line on standard output.
//
//     node llama_worker.mjs NODE_MODULES FILE.gguf [f16|f32]      the last is the dtype of keys and values
//
// {"prompts": [[2, 5, …], …], "new_tokens": N} gives {"prefill_s": …, "steps_s": […], "token_ids": [[…], …]}: the prompts in one context,
// each a sequence of its own; then N − 1 steps, in each of which the last tokens of all sequences are decoded as one batch. Tokens
// are chosen greedily; no token ends a sequence.
//
// It speaks to the addon below node-llama-cpp's classes: their queues decide by themselves what is decoded together, and the time of
// one step cannot be seen from above.

import path from "node:path";
import readline from "node:readline";
import {pathToFileURL} from "node:url";

const [modules, file, cacheType = "f16"] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(path.join(modules, "node-llama-cpp", "dist", "index.js")));

// As node-llama-cpp's own default: longer prompts are split into batches of so many tokens.
const BATCH_TOKENS = 512;

const say = (object) => process.stdout.write(JSON.stringify(object) + "\n");
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 0});
const started = performance.now();
const model = await llama.loadModel({modelPath: file, gpuLayers: 0});
say({
    load_s: (performance.now() - started) / 1e3,
    threads: llama.cpuMathCores,
    release: llama.llamaCppRelease,
    system: llama.systemInfo.trim()
});

const ggmlTypes = {f32: 0, f16: 1};

async function run({prompts, new_tokens: newTokens}) {
    const length = prompts[0].length + newTokens;
    // Cells are counted over all sequences, and in steps of 256.
    const contextSize = Math.ceil(length / 256) * 256 * prompts.length;
    const context = new llama._bindings.AddonContext(model._model, {
        contextSize,
        batchSize: BATCH_TOKENS,
        sequences: prompts.length,
        flashAttention: "auto",
        threads: llama.cpuMathCores,
        kvCacheKeyType: ggmlTypes[cacheType],
        kvCacheValueType: ggmlTypes[cacheType]
    });
    if (!await context.init())
        throw new Error("llama.cpp made no context");
    const sampler = new llama._bindings.AddonSampler(model._model);
    sampler.applyConfig({temperature: 0});

    // Decodes pieces of sequences as one batch, and chooses a token after each piece that asks for it.
    const decode = async (pieces) => {
        context.initBatch(pieces.reduce((sum, piece) => sum + piece.tokens.length, 0));
        const wanted = [];
        for (const {sequence, start, tokens, choose} of pieces) {
            const last = choose ? [tokens.length - 1] : [];
            const index = context.addToBatch(sequence, start, Uint32Array.from(tokens), Uint32Array.from(last));
            if (choose)
                wanted.push([sequence, index[0]]);
        }
        await context.decodeBatch();
        for (const [sequence, index] of wanted)
            chosen[sequence].push(await context.sampleToken(index, sampler));
    };

    const chosen = prompts.map(() => []);
    const begin = performance.now();
    let pieces = [];
    let size = 0;
    for (let sequence = 0; sequence < prompts.length; sequence++) {
        const prompt = prompts[sequence];
        for (let start = 0; start < prompt.length;) {
            const tokens = prompt.slice(start, start + BATCH_TOKENS - size);
            pieces.push({sequence, start, tokens, choose: start + tokens.length === prompt.length});
            start += tokens.length;
            size += tokens.length;
            if (size === BATCH_TOKENS) {
                await decode(pieces);
                [pieces, size] = [[], 0];
            }
        }
    }
    if (size > 0)
        await decode(pieces);
    const prefill = performance.now() - begin;

    const steps = [];
    for (let step = 1; step < newTokens; step++) {
        const begin = performance.now();
        const start = prompts[0].length + step - 1;
        await decode(chosen.map((tokens, sequence) => ({sequence, start, tokens: [tokens.at(-1)], choose: true})));
        steps.push((performance.now() - begin) / 1e3);
    }
    await context.dispose();
    sampler.dispose();
    return {prefill_s: prefill / 1e3, steps_s: steps, token_ids: chosen};
}

for await (const line of readline.createInterface({input: process.stdin})) {
    try {
        say(await run(JSON.parse(line)));
    } catch (error) {
        say({error: String(error?.stack ?? error)});
    }
}
await model.dispose();
process.exit(0);
