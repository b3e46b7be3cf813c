#!/usr/bin/env python3
"""What the files beside `tokenizer.json` make of a text's ids, according to transformers.

    pip install transformers==5.24.0
    python3 tests/golden/added_tokens.py

Writes `added_tokens.json` beside itself: a list of {name, files, text, ids}. `files` are written beside the `tokenizer.json` of
data/kk-tiny, which has <think> but not <note>; `ids` are those of `text`.
"""

import json
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "data" / "kk-tiny"
SIZE = len(json.loads((MODEL / "tokenizer.json").read_text())["model"]["vocab"])
TEXT = "a  <note>  b</note>c<note>d <tool>x xtool tool <|im_start|> hm <|im_end|>  <pad> <think> knight"


def token(content, **flags):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"content": content, **plain, **flags}


def decoder(*tokens, **config):
    stated = {str(SIZE + i): it for i, it in enumerate(tokens)}
    return {"tokenizer_config.json": {"eos_token": "<|im_end|>", "added_tokens_decoder": stated, **config}}


CASES = {
    "plain": {"tokenizer_config.json": {"eos_token": "<|im_end|>"}},
    "decoder": decoder(token("<note>"), token("</note>")),
    "strips": decoder(token("<note>", lstrip=True, rstrip=True), token("</note>", special=True)),
    "single_word": decoder(token("tool", single_word=True, normalized=True)),
    "known_token": {"tokenizer_config.json": {"eos_token": "<|im_end|>", "added_tokens_decoder": {
        "2": token("<|im_end|>", special=True, rstrip=True)}}},
    "other_flags": {"tokenizer_config.json": {"eos_token": "<|im_end|>", "added_tokens_decoder": {
        "3": token("<think>", lstrip=True, rstrip=True)}}},
    "named": {"tokenizer_config.json": {"eos_token": "<|im_end|>", "pad_token": "<pad>"}},
    "named_object": {"tokenizer_config.json": {
        "eos_token": "<|im_end|>", "pad_token": {"__type": "AddedToken", **token("<pad>", lstrip=True)}}},
    "additional": {"tokenizer_config.json": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<tool>", "<note>"]}},
    "legacy": {
        "tokenizer_config.json": {"eos_token": "<|endoftext|>"},
        "special_tokens_map.json": {"eos_token": "<|im_end|>", "additional_special_tokens": ["</note>"]},
        "added_tokens.json": {"<note>": SIZE, "</note>": SIZE + 1},
    },
    "legacy_ignored": {
        **decoder(token("<note>")),
        "special_tokens_map.json": {"additional_special_tokens": ["</note>"]},
        "added_tokens.json": {"<tool>": SIZE + 1},
    },
    "split_special": {"tokenizer_config.json": {"eos_token": "<|im_end|>", "split_special_tokens": True}},
}


def main():
    cases = []
    for name, files in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(MODEL / "tokenizer.json", folder)
            for file, content in files.items():
                (Path(folder) / file).write_text(json.dumps(content))
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            ids = tokenizer.encode(TEXT, add_special_tokens=False)
            cases.append({"name": name, "files": files, "text": TEXT, "ids": ids})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "added_tokens.json").write_text(f"[\n{lines}\n]\n")


main()
