"""A tokenizer in Gemma's form, learned from passages: tokenizer.json and tokenizer_config.json.

Byte pair encoding with byte fallback over text whose spaces became "▁", without a pre-tokenizer; ids 0 to 5 are the special
tokens, 6 to 261 the bytes, and the learned pieces follow. `<bos>` is put first when text is encoded.
"""

import json
import string
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
PAD, EOS, BOS, UNK = range(4)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant', 'model'] %}"
    "{{ raise_exception('a turn is either the user\\'s or the model\\'s, not of role ' + message['role']) }}"
    "{% endif %}"
    "{% set speaker = 'user' if message['role'] == 'user' else 'model' %}"
    "{{ '<start_of_turn>' + speaker + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def learn(texts, vocab_size):
    """Learns the pieces and returns the tokenizer."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    # Pieces may begin with a space and hold none further in, nor punctuation beside letters. With such merges the
    # finished tokenizer splits alike without a pre-tokenizer.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split(Regex(r"[^\p{L}▁]"), "isolated")]
    )
    alphabet = [character for character in string.printable if character not in "\t\r\x0b\x0c "] + ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL + BYTES,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=learned["vocab"], merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", BOS)]
    )
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert tokenizer.get_vocab_size() == vocab_size
    return tokenizer


def save(tokenizer, folder, max_length):
    """Writes tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(Path(folder) / "tokenizer.json"))
    decoder = {
        str(index): dict(content=token, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
        for index, token in enumerate(SPECIAL)
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
        "bos_token": "<bos>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "model_max_length": max_length,
        "pad_token": "<pad>",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
