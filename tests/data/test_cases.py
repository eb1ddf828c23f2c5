"""What users of model editing met with, in its smallest form: read right, or named right."""

from pathlib import Path

import pytest

from malmen.data.checking import Editor, check
from malmen.data.importing import import_rows
from malmen.data.rows import read_rows
from malmen.data.texts import read_texts
from malmen.support.errors import InputError

EDITORS = [Editor("FT", needs_subjects=False), Editor("MEMIT", needs_subjects=True)]


@pytest.fixture
def cases(shared_data: Path) -> Path:
    """The folder of small cases beside the real data slices."""
    path = shared_data.parent / "cases"
    if not path.is_dir():
        pytest.skip("needs the small cases in ../shared/cases")
    return path


@pytest.mark.parametrize(
    ("name", "n"),
    [
        *((f"{name}.json", 8) for name in ("bom", "lines", "wrapped", "pandas", "ragged")),
        *((f"{name}.json", 8) for name in ("long_prompt", "unicode_subjects", "nested_cf")),
        *((f"{name}.json", 4) for name in ("zh", "typographic", "twice", "nested_eval")),
        ("bom.jsonl", 8),
        ("csv.csv", 1),
        ("no_subject.json", 16),
        ("late.json", 16),
        ("trailing_ws.json", 8),
    ],
)
def test_what_is_clear_is_read(cases: Path, name: str, n: int) -> None:
    rows = read_rows(cases / name, "completion")
    assert len(rows) == n
    assert all(row.ans == row.ans.strip() for row in rows)
    assert check(cases / name)[1] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lfs.json", r"lfs\.json: a Git LFS pointer"),
        ("utf16.json", r"utf16\.json: byte 1: UTF-16 instead of UTF-8"),
        ("surrogate.json", r"surrogate\.json:row 1: field 'ans': half of a character"),
        ("loc_is_edit.json", r"row 1: its unrelated prompt is the one that it edits"),
    ],
)
def test_what_is_not_is_named_in_one_line(cases: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_rows(cases / name, "completion")
    assert "\n" not in str(error.value)


def test_texts_in_another_encoding_are_named_by_line_and_byte(cases: Path) -> None:
    with pytest.raises(InputError, match=r"latin1\.txt:1: byte 2 of the line: 0xe1 is not UTF-8"):
        list(read_texts(cases / "latin1.txt"))


def test_other_splits_in_the_nested_form_are_left_out(cases: Path) -> None:
    files, exclude = [cases / "nested_cf.json"], [cases / "nested_eval.json"]
    rows = import_rows(files, task="completion", unrelated=None, exclude=exclude, n=None, seed=0)
    known = {row.subject for row in read_rows(exclude[0], "completion")}
    assert len(known) == len(rows) == 4
    assert known.isdisjoint(row.subject for row in rows)


@pytest.mark.parametrize(
    ("name", "unnamed"),
    [
        ("zh.json", 0),
        ("unicode_subjects.json", 0),
        ("twice.json", 0),
        ("late.json", 1),
        ("typographic.json", 4),
        ("no_subject.json", 16),
    ],
)
def test_the_editors_that_can_use_a_file_are_named(cases: Path, name: str, unnamed: int) -> None:
    report, _ = check(cases / name, editors=EDITORS)
    assert (f"not edited by MEMIT: {unnamed} of" in report) == bool(unnamed)
    assert "edited by FT" in report


def test_the_slot_of_the_source_is_kept(cases: Path) -> None:
    first, *others = read_rows(cases / "twice.json", "completion")
    assert first.subject is not None
    assert first.subject_at == first.src.rindex(first.subject)
    assert all(row.subject_at is None for row in others)


def test_contradictions_and_edited_unrelated_prompts_are_counted(cases: Path) -> None:
    report, problems = check(cases / "dupes.json")
    assert problems == 1
    assert "line" not in report.partition("questions with different answers: 1")[2]
    assert "row 1: Norway; row 2: Chile" in report
    assert check(cases / "loc_is_edit.json")[1] == 4


def test_empty_alternative_answers_are_left_out_and_counted(cases: Path) -> None:
    path = cases / "empty_alt.json"
    assert check(path)[1] == 0
    assert check(path, answer="alt")[1] == 1
    rows = import_rows(
        [path], task="completion", unrelated=None, n=None, seed=0, answer="alt", skip_malformed=True
    )
    assert len(rows) == 7
