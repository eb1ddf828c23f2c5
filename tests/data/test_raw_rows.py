"""Rows are read from every kind of file alike; what is no data is named for what it is."""

import csv
import gzip
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmen.data.raw_rows import RawRow, decoded, read_raw_rows
from malmen.support.errors import InputError

# Text that every kind of file can hold: a table cannot tell a list in brackets from text.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="[{"), min_size=1
).filter(lambda text: text == text.strip())
ROWS = st.lists(st.fixed_dictionaries({"src": TEXTS, "ans": TEXTS}), min_size=1, max_size=5)


def table(rows: list[dict[str, str]], delimiter: str) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def lines(rows: list[dict[str, str]]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


WAYS: dict[str, Any] = {
    "list.json": json.dumps,
    "indented.json": lambda rows: json.dumps(rows, indent=1),
    "lines.jsonl": lines,
    "lines.json": lines,
    "list.jsonl": json.dumps,
    "indented.jsonl": lambda rows: json.dumps(rows, indent=1),
    "under_a_key.json": lambda rows: json.dumps({"version": "1", "data": rows}),
    "columns.json": lambda rows: json.dumps({k: [row[k] for row in rows] for k in rows[0]}),
    "pandas.json": lambda rows: pd.DataFrame(rows).to_json(),
    "index.json": lambda rows: pd.DataFrame(rows).to_json(orient="index"),
    "split.json": lambda rows: pd.DataFrame(rows).to_json(orient="split"),
    "table.csv": lambda rows: table(rows, ","),
    "semicolons.csv": lambda rows: table(rows, ";"),
    "table.tsv": lambda rows: table(rows, "\t"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raw_rows")


@given(rows=ROWS, name=st.sampled_from(list(WAYS)), marked=st.booleans(), packed=st.booleans())
def test_every_way_of_writing_gives_the_same_rows(
    folder: Path, rows: list[dict[str, str]], name: str, *, marked: bool, packed: bool
) -> None:
    content = WAYS[name](rows).encode("utf-8-sig" if marked else "utf-8")
    path = folder / f"{name}{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert [dict(raw.fields) for raw in read_raw_rows(path)] == rows


@given(rows=ROWS)
def test_parquet_gives_the_same_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    assert [dict(raw.fields) for raw in read_raw_rows(folder / "rows.parquet")] == rows


def test_cells_hold_lists_and_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('subject,rephrase,ans\n,"[""a"", ""b""]",x\nAda,[c,y\n')
    assert [dict(raw.fields) for raw in read_raw_rows(path)] == [
        {"rephrase": ["a", "b"], "ans": "x"},
        {"subject": "Ada", "rephrase": "[c", "ans": "y"},
    ]


def test_uneven_rows_of_a_table_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("src,ans\na,b\nc\nd,e,f\ng,h\n")
    problems: list[InputError] = []
    assert [raw.where for raw in read_raw_rows(path, problems=problems)] == [
        f"{path}:2",
        f"{path}:5",
    ]
    assert [str(error).split(": ")[0] for error in problems] == [f"{path}:3", f"{path}:4"]


@settings(max_examples=300)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.text(st.sampled_from('{}[]",:\\ua1 \n'), max_size=40).map(str.encode),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    name=st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.json.gz"]),
)
def test_whatever_a_file_holds_there_are_rows_or_one_line(
    folder: Path, content: bytes, name: str
) -> None:
    (folder / name).write_bytes(content)
    try:
        rows = read_raw_rows(folder / name)
    except InputError as error:
        where = str(error)
    else:
        where = rows[0].where
    assert where.startswith(str(folder / name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4f\n", "a Git LFS pointer"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b"\x80\x04\x95rest", "a pickle"),
        (b"\n<!DOCTYPE html><p>404", "a web page"),
        ('[{"src": "é"}]'.encode("utf-16"), "UTF-16 instead of UTF-8"),
        ('[{"src":\n"Málaga"}]'.encode("latin1"), ":2: byte 3 of the line: 0xe1 is not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'[{"src": ' + b"1" * 5000 + b"}]", "not JSON"),
        (b'{"train": [{"src": "a"}], "test": [{"src": "b"}]}', "rows under train, test"),
    ],
)
def test_what_is_no_data_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_raw_rows(path)
    assert len(str(error.value)) < len(str(path)) + 200


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.touch(mode=0o200)
    with pytest.raises(InputError, match="Permission denied"):
        read_raw_rows(path)


def test_white_space_is_stripped_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"ans": " a "}\n{"ans": ["b\\n"]}\n{"ans": "c"}\n')
    with caplog.at_level(logging.INFO):
        assert [raw.texts("ans")[0] for raw in read_raw_rows(path)] == ["a", "b", "c"]
    assert caplog.text.count("white space round texts of 2 rows is stripped") == 1


def test_half_a_character_is_refused() -> None:
    with pytest.raises(InputError, match="field 'ans': half of a character"):
        RawRow("here", {"ans": "Norway \ud83d"}).text("ans")


def test_a_row_of_another_name_is_named_as_in_the_file() -> None:
    raw = RawRow("here", {"prompt": 3, "other": "x"}).renamed(src="prompt", ans="target")
    assert not raw.has("other")
    for field, name in (("src", "prompt"), ("ans", "target")):
        with pytest.raises(InputError, match=f"field '{name}'"):
            raw.text(field)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_decoded_as_it_was_encoded(text: str) -> None:
    plain = text.removeprefix("\ufeff")
    assert decoded(plain.encode(), "here") == decoded(plain.encode("utf-8-sig"), "here")
