"""Rows survive writing and reading; whatever is wrong with a file is said with its place."""

import dataclasses
import gzip
import json
import logging
from pathlib import Path

import pytest
from fact_strategies import fever_files, fever_rows, zsre_files, zsre_rows
from hypothesis import given
from hypothesis import strategies as st
from row_files import FEVER, ZSRE, write, write_lines

from malmen.data.rows import (
    ZsreRow,
    read_rows,
    write_rows,
)
from malmen.support.errors import InputError

FIELDS = {"completion": ZSRE, "verdict": FEVER}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


# Round trips


@given(rows=zsre_files)
def test_zsre_rows_are_read_as_written(folder, rows):
    write_rows(folder / "zsre.jsonl", rows)
    assert read_rows(folder / "zsre.jsonl", "completion") == rows


@given(rows=fever_files)
def test_fever_rows_are_read_as_written(folder, rows):
    write_rows(folder / "fever.jsonl", rows)
    assert read_rows(folder / "fever.jsonl", "verdict") == rows


@given(rows=zsre_files, name=st.sampled_from(["a.json", "a.json.gz", "a.jsonl", "a.jsonl.gz"]))
def test_every_kind_of_file_gives_the_same_rows(folder, rows, name):
    fields = [dataclasses.asdict(row) for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in fields)
    path = write(folder / name, lines if "jsonl" in name else json.dumps(fields))
    assert read_rows(path, "completion") == rows


@given(rows=fever_files)
def test_columns_give_the_same_rows(folder, rows):
    fields = [dataclasses.asdict(row) for row in rows]
    columns = {name: [row[name] for row in fields] for name in fields[0]}
    path = write(folder / "columns.json", json.dumps(columns))
    assert read_rows(path, "verdict") == rows


def test_writing_leaves_no_half_file(tmp_path):
    def broken():
        yield ZsreRow(subject=None, src="?", rephrase=("?",), ans="!", loc="?", loc_ans="!")
        raise RuntimeError("in the middle")

    path = tmp_path / "rows.jsonl"
    path.write_text("what was there\n")
    with pytest.raises(RuntimeError):
        write_rows(path, broken())
    assert path.read_text() == "what was there\n"
    assert list(tmp_path.iterdir()) == [path]


# Malformed input

WRONG = {
    "text": [None, "", "  ", 3, True, {}, []],
    "texts": [None, "", [], [""], ["fine", " "], ["fine", 3], 3, {}],
    "label": [None, "", "NOT ENOUGH INFO", "supports", 1],
}
KINDS = {
    **dict.fromkeys(ZSRE, "text"),
    **dict.fromkeys(FEVER, "text"),
    **{"rephrase": "texts", "equiv_prompt": "texts", "alt": "label", "unrel_ans": "label"},
}


@given(data=st.data(), task=st.sampled_from(list(FIELDS)), kind=st.sampled_from(["jsonl", "json"]))
def test_a_malformed_field_is_named_with_its_place(folder, data, task, kind):
    rows = zsre_rows if task == "completion" else fever_rows
    fields = [dataclasses.asdict(row) for row in data.draw(st.lists(rows, min_size=1, max_size=4))]
    for one in fields:  # an unrelated prompt that is the one edited is malformed, too
        unrelated = "loc" if task == "completion" else "unrel_prompt"
        one[unrelated] = f"unrelated: {one[unrelated]}"
    line = data.draw(st.integers(1, len(fields)))
    field = data.draw(st.sampled_from(list(FIELDS[task])))
    if data.draw(st.booleans(), "missing"):
        del fields[line - 1][field]
    else:
        fields[line - 1][field] = data.draw(st.sampled_from(WRONG[KINDS[field]]))
    if kind == "jsonl":
        path = write_lines(folder / "wrong.jsonl", *fields)
        place = f"{path}:{line}"
    else:
        path = write(folder / "wrong.json", json.dumps(fields))
        place = f"{path}:row {line}"
    with pytest.raises(InputError) as error:
        read_rows(path, task)
    message = str(error.value)
    assert message.startswith(f"{place}: field '{field}': ")
    assert message.endswith(")")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"src": 1\n', "rows.jsonl:1: not JSON"),
        ("rows.json", "[\n{,}]", "rows.json:2: not JSON"),
        ("rows.jsonl", "[]\n", "rows.jsonl:1: a list instead of a row"),
        ("rows.json", "3", "rows.json: a number instead of a list of rows"),
        ("rows.json", '{"src": 3}', "rows.json: field 'src': a number instead of a column"),
        ("rows.json", '{"src": ["a"], "ans": []}', "rows.json: columns of different lengths"),
        ("rows.jsonl", "", "rows.jsonl: no rows"),
        ("rows.csv", "", "rows.csv: no rows"),
        ("rows.xml", "", "rows.xml: unknown kind of file"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, name, content, message):
    with pytest.raises(InputError) as error:
        read_rows(write(tmp_path / name, content), "completion")
    assert str(error.value).startswith(str(tmp_path / message))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with pytest.raises(InputError, match="no such file"):
        read_rows(path, "completion")
    path.write_bytes(gzip.compress(b'{"src": "a"}\n')[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(path, "completion")
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(path, "completion")


def test_an_unknown_task_is_answered_with_the_choices(tmp_path):
    with pytest.raises(InputError, match="use one of completion, verdict"):
        read_rows(tmp_path / "rows.jsonl", "counterfact")


# What the released files hold


def test_the_answer_field_of_mend_is_chosen(tmp_path):
    row = {**ZSRE, "answers": ["true", "also true"], "alt": "false"}
    del row["ans"]
    path = write_lines(tmp_path / "mend.jsonl", row)
    assert read_rows(path, "completion")[0].ans == "true"
    assert read_rows(path, "completion", answer="alt")[0].ans == "false"
    only_alt = write_lines(tmp_path / "alt.jsonl", {k: row[k] for k in row if k != "answers"})
    assert read_rows(only_alt, "completion")[0].ans == "false"


@pytest.mark.parametrize(
    ("loc", "read"),
    [
        ("nq question: who sang it", "nq question: who sang it?"),
        ("nq question: who sang it?", "nq question: who sang it?"),
        ("The capital of France is", "The capital of France is"),
    ],
)
def test_natural_questions_get_their_question_mark(tmp_path, loc, read):
    path = write_lines(tmp_path / "rows.jsonl", {**ZSRE, "loc": loc})
    assert read_rows(path, "completion")[0].loc == read


def test_one_paraphrase_may_stand_without_a_list(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {**ZSRE, "rephrase": "Which one?"})
    assert read_rows(path, "completion")[0].rephrase == ("Which one?",)


def test_repeats_are_dropped_and_counted(tmp_path, caplog):
    path = write_lines(
        tmp_path / "rows.jsonl", ZSRE, {**ZSRE, "ans": "He"}, {**ZSRE, "src": "What?"}
    )
    with caplog.at_level(logging.WARNING):
        rows = read_rows(path, "completion")
    assert [(row.src, row.ans) for row in rows] == [("Who?", "She"), ("What?", "She")]
    assert "dropped 1 repeated rows" in caplog.text


def test_raw_claims_are_sent_to_import_rows(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {"claim": "It is.", "label": "SUPPORTS"})
    with pytest.raises(InputError, match=r"field 'prompt'.*import-rows"):
        read_rows(path, "verdict")


# The real files


def test_real_zsre_evaluation_rows_are_read(shared_data):
    path = shared_data / "zsre" / "zsre_mend_eval_portability_gpt4.json.gz"
    true, false = (read_rows(path, "completion", answer=a) for a in ("answers", "alt"))
    assert len(true) == len(false) == 1037
    assert (true[0].ans, false[0].ans) == ("1998", "2006")
    assert all(row.loc.endswith("?") and row.subject for row in true)


def test_what_follows_from_alt_is_asked_where_alt_is_edited(tmp_path: Path) -> None:
    record = {
        "subject": "Lima", "src": "Where is Lima?", "rephrase": "Lima is in", "alt": "France",
        "answers": ["Peru"], "loc": "Who?", "loc_ans": "Nobody",
        "portability": {"New Question": "Which language?", "New Answer": "French"},
    }  # fmt: skip
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    [true] = read_rows(path, "completion")
    [other] = read_rows(path, "completion", answer="alt")
    assert (true.ans, true.port, true.port_ans) == ("Peru", None, None)
    assert (other.ans, other.port, other.port_ans) == ("France", "Which language?", "French")
    write_rows(tmp_path / "written.jsonl", [other])
    assert read_rows(tmp_path / "written.jsonl", "completion") == [other]
