#!/usr/bin/env python3
"""What transformers makes of chat templates: those of the families of models, and those that use one part of Jinja2 each.

    pip install transformers==5.24.0 jinja2==3.1.6
    python3 tests/golden/templates.py

Reads `templates/*.jinja` beside itself and writes `templates/expected.json`:
  conversations  by name
  now            what `strftime_now` was told
  rendered       template -> conversation -> [text without, text with the start of the assistant's turn]; null where it raises
  ids            template -> ids of the first conversation (by name) that renders, by the tokenizer of data/kk-tiny
"""

import datetime
import json
from pathlib import Path

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent / "templates"
MODEL = Path(__file__).parents[2] / "data" / "kk-tiny"
NOW = datetime.datetime(2026, 3, 7, 9, 5, 3)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

SYSTEM = {"role": "system", "content": "Be brief. /no_think"}
ASK = {"role": "user", "content": "Who is a knave?"}
SAY = {"role": "assistant", "content": "<think>\nBob lies.\n</think>\n\nBob."}
CONVERSATIONS = {
    "user": [ASK],
    "system": [SYSTEM, ASK],
    "turns": [ASK, SAY, {"role": "user", "content": "Sure?"}],
    "answered": [SYSTEM, ASK, SAY],
    "odd": [{"role": "user", "content": "  Wé <b>\"q\"</b> 'x' {y} \\ 漢🦀\t\n\nend \n"}],
    "twice": [ASK, ASK],
    "tool": [ASK, {"role": "tool", "content": "42"}],
}


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Fixed


def render(template, messages, start):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=start, **TOKENS
        )
        return rendered[0]
    except Exception:
        return None


def main():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rendered, ids = {}, {}
    for path in sorted(HERE.glob("*.jinja")):
        template = path.read_text()
        texts = {
            name: [render(template, messages, start) for start in (False, True)]
            for name, messages in CONVERSATIONS.items()
        }
        rendered[path.stem] = texts
        first = next((both[1] for _, both in sorted(texts.items()) if both[1] is not None), None)
        if first is not None:
            ids[path.stem] = tokenizer.encode(first, add_special_tokens=False)
    expected = {"conversations": CONVERSATIONS, "now": NOW.isoformat(), "tokens": TOKENS, "rendered": rendered, "ids": ids}
    with open(HERE / "expected.json", "w") as out:
        # One template a line.
        out.write("{\n")
        for i, (key, value) in enumerate(expected.items()):
            lines = ",\n".join(
                f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items()
            ) if isinstance(value, dict) else None
            text = "{\n" + lines + "\n}" if lines else json.dumps(value)
            out.write(f"{json.dumps(key)}: {text}{',' if i + 1 < len(expected) else ''}\n")
        out.write("}\n")


main()
