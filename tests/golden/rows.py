#!/usr/bin/env python3
"""Small files of rows in every accepted format, and what must be read from them.

    pip install pandas pyarrow zstandard
    python3 tests/golden/rows.py

Made with pandas 3.1.1, pyarrow 26.0.1 and zstandard 0.25.0. Writes into `rows/` beside itself
  *.parquet, *.jsonl.*  the files
  expected.json         for each file its rows, as `Row` is written in JSON, or the name of a file with the same rows; for
                        a file that is wrong, the place of its error without the folder, and words of its text

A row's values here are made from the Python values that go into the file, never from what is read back.
"""

import gzip
import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

HERE = Path(__file__).parent / "rows"
EXPECTED = {}

MESSAGE = pa.struct([("content", pa.string()), ("role", pa.string())])
# As verl's preprocessing scripts write it, by way of `datasets`.
VERL = pa.schema([
    ("data_source", pa.string()),
    ("prompt", pa.list_(MESSAGE)),
    ("ability", pa.string()),
    ("reward_model", pa.struct([("ground_truth", pa.string()), ("style", pa.string())])),
    ("extra_info", pa.struct([("answer", pa.string()), ("index", pa.int64()), ("split", pa.string())])),
])


def verl_rows(count):
    for index in range(count):
        prompt = [{"content": f"Question {index}: how much is {index} + {index}? ä 漢 🦀\n", "role": "user"}]
        if index % 3 == 0:
            prompt.insert(0, {"content": "Answer with a number.", "role": "system"})
        yield {
            "data_source": "openai/gsm8k" if index % 2 else "sums",
            "prompt": prompt,
            "ability": "math",
            "reward_model": {"ground_truth": str(2 * index), "style": "rule"},
            "extra_info": {"answer": f"{index} + {index} = {2 * index}\n#### {2 * index}", "index": index, "split": "train"},
        }


def without_nulls(row):
    """What is read: a null is a key that is not there, with its default."""
    row = json.loads(json.dumps(row))
    model = {key: value for key, value in row["reward_model"].items() if value is not None}
    extra = row.get("extra_info")
    return {
        "data_source": row["data_source"],
        "prompt": row["prompt"],
        "ability": row.get("ability") or "",
        "reward_model": {"style": "rule", **model},
        "extra_info": extra and {key: value for key, value in extra.items() if value is not None},
    }


def plain(data_source, prompt, answer, ability="", extra_info=None):
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    model = {"style": "rule", "ground_truth": answer}
    return {"data_source": data_source, "prompt": prompt, "ability": ability, "reward_model": model, "extra_info": extra_info}


def parquet(name, table, expected, **options):
    pq.write_table(table, HERE / name, **options)
    expect(name, expected)


def expect(name, rows):
    same = next((other for other, it in EXPECTED.items() if it.get("rows") == rows), None)
    EXPECTED[name] = {"rows": same or rows}


def wrong(name, place, *words):
    EXPECTED[name] = {"place": name + place, "words": words}


def verl():
    rows = list(verl_rows(11))
    expected = [without_nulls(row) for row in rows]
    table = pa.Table.from_pylist(rows, VERL)
    for compression in ["snappy", "zstd", "gzip"]:
        parquet(f"verl-{compression}.parquet", table, expected, compression=compression, row_group_size=6, write_statistics=compression == "snappy")
    parquet("verl-pages-v2.parquet", table, expected, data_page_version="2.0", data_page_size=64, use_dictionary=False)
    # pandas: the columns hold Python objects, and the index is a column.
    frame = pd.DataFrame(rows, index=[f"row {index}" for index in range(11)])
    frame.to_parquet(HERE / "verl-pandas.parquet")
    expect("verl-pandas.parquet", expected)
    large = pa.schema([("data_source", pa.dictionary(pa.int32(), pa.string())), ("prompt", pa.large_list(MESSAGE)),
                       ("ability", pa.large_string()), *[VERL.field(name) for name in ["reward_model", "extra_info"]]])
    parquet("verl-large.parquet", pa.Table.from_pylist(rows, large), expected, use_compliant_nested_type=False)


def nulls():
    rows = list(verl_rows(4))
    rows[0]["ability"] = None
    rows[1]["extra_info"] = None
    rows[2]["extra_info"]["answer"] = None
    rows[3]["reward_model"]["style"] = None
    parquet("nulls.parquet", pa.Table.from_pylist(rows, VERL), [without_nulls(row) for row in rows], row_group_size=2)
    for field, value, *words in [
        ("prompt", None, "missing field `prompt`"),
        ("data_source", None, "no data_source"),
        ("reward_model", {"style": "rule"}, "reward_model", "ground_truth"),
        ("prompt", [], "no messages"),
        ("prompt", [{"role": "user", "content": None}], "prompt[0]", "content"),
    ]:
        name = f"wrong-{len(EXPECTED)}.parquet"
        rows = [{**row, field: value} if row["extra_info"]["index"] == 2 else row for row in verl_rows(3)]
        pq.write_table(pa.Table.from_pylist(rows, VERL), HERE / name, row_group_size=2, store_schema=False, write_statistics=False)
        # A missing struct is missing as a whole.
        wrong(name, ": row 2", *words)


def types():
    """Values of every type in extra_info, nested and as a map."""
    when = pd.Timestamp("2026-02-03T04:05:06Z")
    extra = {
        "flag": True, "small": -7, "big": 2**63 + 1, "half": 0.25, "third": 1 / 3, "text": "ä", "bytes": b"as text",
        "tags": ["a", "b"], "deep": {"list": [[1, 2], [], [3]], "none": None}, "map": [("k", 1), ("l", 2)], "empty": [],
    }
    kinds = pa.struct([
        ("flag", pa.bool_()), ("small", pa.int8()), ("big", pa.uint64()), ("half", pa.float32()), ("third", pa.float64()),
        ("text", pa.string()), ("bytes", pa.binary()), ("tags", pa.list_(pa.string())),
        ("deep", pa.struct([("list", pa.list_(pa.list_(pa.int32()))), ("none", pa.string())])),
        ("map", pa.map_(pa.string(), pa.int64())), ("empty", pa.list_(pa.string())),
    ])
    schema = pa.schema([("data_source", pa.string()), ("prompt", pa.string()), ("answer", pa.int64()), ("extra_info", kinds),
                        ("seen", pa.timestamp("us", "UTC"))])
    row = {"data_source": "types", "prompt": "?", "answer": 42, "extra_info": extra, "seen": when}
    read = {**extra, "bytes": "as text", "deep": {"list": extra["deep"]["list"]}, "map": dict(extra["map"])}
    parquet("types.parquet", pa.Table.from_pylist([row], schema), [plain("types", "?", "42", extra_info=read)])
    for column, value, *words in [
        ("prompt", 3, "prompt", "string or a list of {role, content}"),
        ("prompt", b"\xff\xfe", "column prompt", "not UTF-8"),
        ("data_source", 3, "data_source", "expected a string"),
        ("extra_info", {"a": [b"\xff"]}, "column extra_info: a", "not UTF-8"),
    ]:
        name = f"wrong-{len(EXPECTED)}.parquet"
        row = {"data_source": "types", "prompt": "?", "answer": "42", "extra_info": None, column: value}
        pq.write_table(pa.Table.from_pylist([row]), HERE / name)
        wrong(name, ": row 0", *words)
    for column, value, *words in [
        ("prompt", "?", "prompt", "expected a sequence"),
        ("prompt", [{"role": 3, "content": "?"}], "prompt[0].role", "expected a string"),
        ("reward_model", "42", "reward_model", "expected struct RewardModel"),
        ("ability", 3, "ability", "expected a string"),
    ]:
        name = f"wrong-{len(EXPECTED)}.parquet"
        pq.write_table(pa.Table.from_pylist([{**next(verl_rows(1)), column: value}]), HERE / name)
        wrong(name, ": row 0", *words)


def pages():
    """Pages so small that rows begin in one and end in the next, also pages without entries."""
    rows = list(verl_rows(60))
    for index, row in enumerate(rows):
        row["ability"] = None if index % 7 == 0 else "math"
        row["extra_info"]["split"] = None if index % 5 == 0 else "train"
        row["extra_info"] = None if index % 11 == 0 else row["extra_info"]
    expected = [without_nulls(row) for row in rows]
    for name, options in [
        ("verl-tiny-pages.parquet", {"compression": "gzip"}),
        ("verl-tiny-pages-v2.parquet", {"compression": "zstd", "data_page_version": "2.0"}),
        ("verl-plain.parquet", {"compression": "none", "use_dictionary": False}),
    ]:
        parquet(name, pa.Table.from_pylist(rows, VERL), expected, data_page_size=50, write_batch_size=3, row_group_size=33,
                dictionary_pagesize_limit=300, write_statistics=False, store_schema=False, **options)


def nested():
    """Lists of structs, lists of lists and maps of maps, in all combinations of null, empty and filled."""
    item = pa.struct([("k", pa.string()), ("v", pa.list_(pa.int64()))])
    kinds = pa.struct([
        ("items", pa.list_(item)), ("deep", pa.list_(pa.list_(pa.list_(item)))),
        ("map", pa.map_(pa.string(), pa.map_(pa.int32(), pa.list_(pa.string())))),
        ("one", pa.struct([("two", pa.struct([("x", pa.float64())]))])),
    ])
    full, none = {"k": "ä", "v": [1, None, 2]}, {"k": None, "v": None}
    # Each with what is read: a null in a struct is a key that is not there, and a null elsewhere is a null.
    items = [(None, None), ([], []), ([None], [None]), ([full, none, {"k": "", "v": []}], [full, {}, {"k": "", "v": []}])]
    deep = [(None, None), ([], []), ([None, [], [None, [], [None]]], [None, [], [None, [], [None]]]), ([[[full]], [[none], []]], [[[full]], [[{}], []]])]
    maps = [
        (None, None), ([], {}), ([("a", None), ("b", [])], {"a": None, "b": {}}),
        ([("c", [(1, None), (2, []), (-3, ["x", None])])], {"c": {"1": None, "2": [], "-3": ["x", None]}}),
    ]
    one = [(None, None), ({"two": None}, {}), ({"two": {"x": None}}, {"two": {}}), ({"two": {"x": 0.5}}, {"two": {"x": 0.5}})]
    names = ["items", "deep", "map", "one"]
    extras = [(None, None)]
    for index in range(64):
        values = [items[index % 4], deep[index // 4 % 4], maps[index // 16], one[(index + index // 4 + index // 16) % 4]]
        given = {name: value for name, (value, _) in zip(names, values)}
        extras.append((given, {name: value for name, (_, value) in zip(names, values) if value is not None}))
    schema = pa.schema([("data_source", pa.string()), ("prompt", pa.string()), ("answer", pa.string()), ("extra_info", kinds)])
    rows = [{"data_source": "nested", "prompt": "?", "answer": "1", "extra_info": given} for given, _ in extras]
    expected = [plain("nested", "?", "1", extra_info=read) for _, read in extras]
    table = pa.Table.from_pylist(rows, schema)
    parquet("nested.parquet", table, expected, data_page_size=10, write_batch_size=2, row_group_size=40, store_schema=False, write_statistics=False)
    parquet("nested-v2.parquet", table, expected, data_page_version="2.0", use_dictionary=False, store_schema=False, write_statistics=False)


def scalars():
    """Decimals, dates and times are text, and a ground truth may have any type."""
    kinds = pa.struct([
        ("short", pa.decimal128(5, 2)), ("long", pa.decimal128(30, 3)), ("when", pa.timestamp("us", "UTC")), ("day", pa.date32()),
        ("half", pa.float16()), ("byte", pa.uint8()), ("fixed", pa.binary(4)),
    ])
    model = pa.struct([("ground_truth", pa.int32()), ("style", pa.string())])
    schema = pa.schema([*[VERL.field(name) for name in ["data_source", "prompt", "ability"]], ("reward_model", model), ("extra_info", kinds)])
    extra = {
        "short": Decimal("-12.05"), "long": Decimal("123456789012345678901234567.001"), "when": pd.Timestamp("2026-02-03T04:05:06Z"),
        "day": pd.Timestamp("2026-02-03").date(), "half": np.float16(0.25), "byte": 255, "fixed": b"text",
    }
    row = {**next(verl_rows(1)), "reward_model": {"ground_truth": -7, "style": "rule"}, "extra_info": extra}
    read = {
        "short": "-12.05", "long": "123456789012345678901234567.001", "when": "2026-02-03 04:05:06.000000 +00:00", "day": "2026-02-03",
        "half": 0.25, "byte": 255, "fixed": "text",
    }
    model = {"ground_truth": "-7", "style": "rule"}
    parquet("scalars.parquet", pa.Table.from_pylist([row], schema), [without_nulls({**row, "reward_model": model, "extra_info": read})])


def question(text, answer):
    return {"question": text, "answer": answer}


def mathematics():
    gsm8k = [
        question("Natalia sold 48 clips. How many?", "She sold 48/2 = <<48/2=24>>24.\n#### 24"),
        question("How much?", "It is $1,234,567.\n#### 1,234,567"),
        question("Below zero?", "#### -3"),
    ]
    expected = [plain("gsm8k", it["question"], re.search(r"#### (.*)", it["answer"])[1].replace(",", ""), "math") for it in gsm8k]
    parquet("gsm8k.parquet", pa.Table.from_pylist(gsm8k), expected)
    lines("gsm8k.jsonl.gz", gsm8k, expected)
    answers = [r"\frac{1}{2}", r"\{1, 2\}", "x^2 + 1", r"\text{east}"]
    solutions = [
        r"First \boxed{3}, then $\boxed{\frac{1}{2}}$.", r"So $\boxed{\{1, 2\}}$", r"$\fbox{x^2 + 1}$", r"\[\boxed{\text{east}}.\]"
    ]
    math = [
        {"problem": f"Problem {index}", "level": f"Level {index + 1}", "type": "Algebra", "solution": solution}
        for index, solution in enumerate(solutions)
    ]
    expected = [
        plain("math", it["problem"], answer, "math", {"level": it["level"], "type": it["type"]})
        for it, answer in zip(math, answers)
    ]
    parquet("math.parquet", pa.Table.from_pylist(math), expected)
    lines("math.jsonl.zst", math, expected)
    # One column more is another data set, which must be named.
    more = pa.Table.from_pylist([{**it, "id": 1} for it in gsm8k])
    pq.write_table(more, HERE / "more-columns.parquet")
    wrong("more-columns.parquet", ": row 0", "no data_source")
    pq.write_table(pa.Table.from_pylist([{"text": "?", "data_source": "x"}]), HERE / "no-prompt.parquet")
    wrong("no-prompt.parquet", ": row 0", "schema is unknown", "prompt and answer")
    named = [{**it, "data_source": "mine", "metadata": {"n": n}} for n, it in enumerate(gsm8k)]
    expected = [plain("mine", it["question"], it["answer"], extra_info=it["metadata"]) for it in named]
    parquet("named.parquet", pa.Table.from_pylist(named), expected)
    pq.write_table(pa.Table.from_pylist(named[:0] , pa.Table.from_pylist(named).schema), HERE / "no-rows.parquet")
    wrong("no-rows.parquet", "", "no rows")


def lines(name, rows, expected):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if name.endswith(".gz"):
        # Two members, as `cat a.gz b.gz` makes.
        half = text.index(b"\n") + 1
        data = gzip.compress(text[:half], mtime=0) + gzip.compress(text[half:], mtime=0)
    else:
        data = zstandard.compress(text)
    (HERE / name).write_bytes(data)
    expect(name, expected)


def damaged():
    """Files that are cut off, or are something else."""
    whole = (HERE / "verl-snappy.parquet").read_bytes()
    for name, data in [
        ("cut.parquet", whole[: len(whole) // 2]), ("text.parquet", b'{"prompt": "?"}\n'), ("empty.parquet", b""),
        ("zeros.parquet", b"PAR1" + bytes(64) + b"PAR1"),
    ]:
        (HERE / name).write_bytes(data)
        wrong(name, "", "cannot be read as a parquet file")
    rows = list(verl_rows(100))
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name, data in [("cut.jsonl.gz", gzip.compress(text, mtime=0)), ("cut.jsonl.zst", zstandard.compress(text))]:
        (HERE / name).write_bytes(data[: len(data) * 3 // 4])
        EXPECTED[name] = {"place": name + ":", "words": ["cut off"]}
    for name in ["text.jsonl.gz", "text.jsonl.zst"]:
        (HERE / name).write_bytes(text[:100])
        wrong(name, ":1", "cannot be read")
    (HERE / "empty.jsonl").write_bytes(b"")
    wrong("empty.jsonl", "", "no rows", "one JSON object per line")


def conversations():
    """Conversations for `sft`, which are not rows: they are not in expected.json."""
    turn = lambda role, content: {"role": role, "content": content}
    talks = [
        {"messages": [turn("user", "one"), turn("assistant", "a knight")], "id": 1},
        {"messages": [turn("user", "two"), turn("assistant", "a"), turn("user", "b"), turn("assistant", "c")], "id": None},
    ]
    pq.write_table(pa.Table.from_pylist(talks), HERE / "conversations.parquet")


def main():
    HERE.mkdir(exist_ok=True)
    for path in HERE.iterdir():
        path.unlink()
    verl()
    nulls()
    types()
    pages()
    nested()
    scalars()
    mathematics()
    rows = [without_nulls(row) for row in verl_rows(11)]
    lines("verl.jsonl.gz", rows, rows)
    lines("verl.jsonl.zst", rows, rows)
    damaged()
    conversations()
    (HERE / "expected.json").write_text(json.dumps(EXPECTED, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
