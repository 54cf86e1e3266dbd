"""Trains a small Gemma on Jane Austen's novels with Flax and optax, and saves it in bfloat16 as Flax does.

    python train_small.py ../../tests/data/gemma-small

Every passage of a few sentences becomes `<bos> … <eos>`; passages are put one after another into rows of equal length, so
the model learns to begin after `<bos>` and to stop. Everything is seeded: the same versions on the same kind of machine
give the same weights. Ten minutes to half an hour on two cores.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from transformers import FlaxGemmaForCausalLM, GemmaConfig

import austen
import small_tokenizer

CONFIG = dict(
    vocab_size=2048,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=32,
    hidden_act="gelu_pytorch_tanh",
    hidden_activation="gelu_pytorch_tanh",
    max_position_embeddings=512,
)
ROW_TOKENS = 128


def rows_of(tokenizer, texts, rng):
    """Passages in random order, `<bos>` before and `<eos>` after each, as rows [R, 129] that begin with `<bos>`."""
    order = rng.permutation(len(texts))
    encoded = tokenizer.encode_batch([texts[index] for index in order])
    rows, row = [], []
    for passage in encoded:
        row += passage.ids + [small_tokenizer.EOS]
        if len(row) > ROW_TOKENS:
            # What is cut off of the last passage is left out, so that each row begins with a passage's beginning.
            rows.append(row[: ROW_TOKENS + 1])
            row = []
    return np.array(rows, np.int32)


def train(model, tokenizer, texts, held_out, arguments):
    """Trains from the model's random parameters and returns the trained ones, float32."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, arguments.learning_rate, 100, arguments.steps, 1e-5)
    decayed = jax.tree_util.tree_map(lambda leaf: leaf.ndim > 1, model.params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.05, mask=decayed)
    )
    params, state = model.params, optimizer.init(model.params)

    def loss_of(params, rows):
        logits = model(rows[:, :-1], params=params).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()

    @jax.jit
    def step_of(params, state, rows):
        loss, gradients = jax.value_and_grad(loss_of)(params, rows)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    evaluate = jax.jit(loss_of)
    rng = np.random.default_rng(arguments.seed)
    check = rows_of(tokenizer, held_out, rng)[:64]
    epoch, at, started, mean = None, 0, time.monotonic(), None
    for step in range(1, arguments.steps + 1):
        if epoch is None or at + arguments.batch_size > len(epoch):
            epoch, at = rows_of(tokenizer, texts, rng), 0
        params, state, loss = step_of(params, state, epoch[at : at + arguments.batch_size])
        at += arguments.batch_size
        loss = float(loss)
        mean = loss if mean is None else 0.98 * mean + 0.02 * loss
        if step % 100 == 0 or step == arguments.steps:
            seconds = time.monotonic() - started
            print(
                f"step {step} of {arguments.steps}: loss {mean:.3f}, held out {float(evaluate(params, check)):.3f}, "
                f"{seconds:.0f} s",
                flush=True,
            )
    return params


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder to write the checkpoint and its tokenizer to")
    parser.add_argument("--text", metavar="FILE", help="train on this UTF-8 text, blank lines between paragraphs, in place of the novels")
    parser.add_argument("--steps", type=int, default=1300, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="rows of 128 tokens a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="the highest (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    arguments = parser.parse_args()
    books = [Path(arguments.text).read_text(encoding="utf-8").splitlines()] if arguments.text else austen.download()
    texts = [passage for book in books for passage in austen.passages(book)]
    held_out, texts = texts[::50], [passage for index, passage in enumerate(texts) if index % 50]
    tokenizer = small_tokenizer.learn(texts, CONFIG["vocab_size"])
    model = FlaxGemmaForCausalLM(GemmaConfig(**CONFIG), seed=arguments.seed)
    count = sum(leaf.size for leaf in jax.tree_util.tree_leaves(model.params))
    print(f"{len(texts)} passages of {sum(map(len, texts))} characters, {count} parameters", flush=True)
    params = train(model, tokenizer, texts, held_out, arguments)
    model.save_pretrained(arguments.out, params=model.to_bf16(params))
    small_tokenizer.save(tokenizer, arguments.out, CONFIG["max_position_embeddings"])
    reloaded = FlaxGemmaForCausalLM.from_pretrained(arguments.out)
    print(f"saved in {jax.tree_util.tree_leaves(reloaded.params)[0].dtype}")
    for text in ("Emma was", "It was", "Mr. Darcy had"):
        ids = jnp.array([tokenizer.encode(text).ids])
        output = reloaded.generate(ids, max_new_tokens=40, do_sample=False, pad_token_id=0)
        print(repr(tokenizer.decode(output.sequences[0].tolist(), skip_special_tokens=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
