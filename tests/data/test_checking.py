"""`malmen data check`: what it counts, on files whose content is known."""

import gzip
import json
import re

import pytest
from row_files import FEVER, FLAT, NESTED, ZSRE, write, write_lines

from malmen.__main__ import app
from malmen.data.checking import MOST_PROBLEMS, Editor, Reader, check
from malmen.support.errors import InputError


def row(name, **fields):
    return {**ZSRE, "src": f"Who is {name}?", "subject": name, **fields}


def number(report, pattern):
    """The number before the words that match a pattern."""
    (found,) = re.findall(rf"([\d,]+) {pattern}", report)
    return int(found.replace(",", ""))


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([ZSRE], "zsRE"),
        ([FEVER], "FEVER"),
        ([FLAT], "flat CounterFact"),
        ([NESTED], "nested CounterFact"),
        ([{"claim": "It is.", "label": "SUPPORTS", "evidence_pages": []}], "claims"),
        ([{"loc": "Where?", "loc_ans": "Here"}], "unrelated questions"),
        ([{"anything": 1}], "unknown"),
        ([ZSRE, ZSRE, {"anything": 1}], "zsRE"),
    ],
)
def test_the_kind_of_a_file_is_that_of_most_rows(tmp_path, rows, title):
    path = write_lines(tmp_path / "rows.jsonl", *rows)
    report, malformed = check(path)
    assert report.startswith(f"{path}: {len(rows)} rows, {title}\n")
    assert bool(malformed) == ({"anything": 1} in rows)


def test_fields_are_counted_with_what_they_hold(tmp_path):
    rows = [row("Ada", n=1), row("Bob", n=None), row("Cyd", rephrase=[])]
    report, _ = check(write_lines(tmp_path / "rows.jsonl", *rows))
    lines = [line.split() for line in report.splitlines()]
    assert ["n", "2", "number", "1,", "null", "1"] in lines
    assert ["rephrase", "3", "list", "2,", "nothing", "1"] in lines


def test_repeats_are_counted(tmp_path):
    rows = [row("Ada"), row("Ada"), row("Bob", src="WHO is Ada?"), row("Cyd")]
    report, _ = check(write_lines(tmp_path / "rows.jsonl", *rows))
    assert number(report, "rows repeat the question of an earlier row") == 1
    assert number(report, "do if spelling does not count") == 2


def test_lengths_of_answers_are_quantiles(tmp_path):
    rows = [row(str(i), ans="a b" if i else "one two three") for i in range(10)]
    report, _ = check(write_lines(tmp_path / "rows.jsonl", *rows))
    lines = [line.split() for line in report.splitlines()]
    assert ["words", "2", "2", "2", "3", "3"] in lines
    assert ["characters", "3", "3", "3", "13", "13"] in lines


def test_splits_are_compared_by_question_and_subject(tmp_path):
    here = write_lines(tmp_path / "here.jsonl", row("Ada"), row("Bob"), row("Cyd"), ZSRE)
    there = write_lines(
        tmp_path / "there.jsonl", row("Eve", src="who is ada?"), row("BOB", src="What?"), row("Cyd")
    )
    report, _ = check(here, against=there)
    assert number(report, "of 4 rows have a question that occurs there") == 2
    assert number(report, "of 3 rows that name a subject have one that occurs there") == 2


def test_malformed_rows_are_named_and_the_others_still_counted(tmp_path):
    lines = [json.dumps(row("Ada")), "{torn", json.dumps([1]), json.dumps(row("Bob", ans=" "))]
    path = write(tmp_path / "rows.jsonl", "\n".join(lines))
    report, malformed = check(path)
    assert malformed == 3
    assert "4 rows, zsRE" in report
    assert "malformed rows: 3\n" in report
    for problem in (":2: not JSON", ":3: a list instead of a row", ":4: field 'ans': empty"):
        assert f"  {path}{problem}" in report


def test_of_many_malformed_rows_the_first_are_named(tmp_path):
    rows = [row(str(i), ans="") for i in range(MOST_PROBLEMS + 2)]
    report, malformed = check(write_lines(tmp_path / "rows.jsonl", *rows))
    assert malformed == len(rows)
    assert report.count("field 'ans': empty") == MOST_PROBLEMS
    assert "\n  and 2 more\n" in report


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no rows"), (gzip.compress(b'{"src": 1}\n' * 999)[:-9], "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content, message):
    path = tmp_path / f"rows.jsonl{'.gz' * bool(content)}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        check(path)


def test_rows_of_an_unknown_kind_cannot_be_compared(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {"anything": 1})
    with pytest.raises(InputError, match="leave out --against"):
        check(path, against=path)


def test_the_command_ends_with_status_1_if_a_row_is_malformed(tmp_path, capsys):
    good = write_lines(tmp_path / "good.jsonl", row("Ada"))
    app.cli(prog="malmen", args=["data", "check", str(good), "--against", str(good)])
    assert "malformed rows: 0" in capsys.readouterr().out
    bad = write_lines(tmp_path / "bad.jsonl", row("Ada", ans=""))
    with pytest.raises(SystemExit) as end:
        app.cli(prog="malmen", args=["data", "check", str(bad)])
    assert end.value.code == 1
    assert "malformed rows: 1" in capsys.readouterr().out


EDITORS = [Editor("FT", needs_subjects=False), Editor("MEMIT", needs_subjects=True)]


@pytest.mark.parametrize(
    ("changes", "use", "why"),
    [
        ({}, "edited by FT, MEMIT", None),
        ({"subject": None}, "edited by FT\n", "rows.jsonl:2: field 'subject': missing"),
        ({"subject": "Eve"}, "edited by FT\n", "rows.jsonl:2: the subject 'Eve' does not occur"),
        ({"subject": "bob"}, "edited by FT\n", "but 'Bob?' does, which is near"),
    ],
)
def test_the_editors_that_can_use_a_file_are_named(tmp_path, changes, use, why):
    path = write_lines(tmp_path / "rows.jsonl", row("Ada"), row("Bob", **changes))
    report, problems = check(path, editors=EDITORS)
    assert not problems
    assert use in report
    assert ("not edited by MEMIT: 1 of 2 rows do not name their subject" in report) == bool(why)
    assert (why or "") in report


def test_the_language_model_that_a_file_is_for_is_told(tmp_path):
    def fits(prompt, answer):
        if not answer.isascii():
            raise InputError("cannot spell it")

    path = write_lines(tmp_path / "rows.jsonl", row("Ada"), row("Bob", ans="挪威"))
    report, problems = check(path, reader=Reader("T5", "completion", fits))
    assert problems == 1
    assert f"{path}:2: cannot spell it" in report
    report, problems = check(path, reader=Reader("BERT", "verdict", fits))
    assert not problems
    assert "not for BERT, which does not" in report


def test_rows_that_contradict_or_overwrite_each_other_are_listed(tmp_path):
    path = write_lines(
        tmp_path / "rows.jsonl",
        row("Ada"),
        row("ADA", ans="Another"),
        row("Bob", loc="who is ada", loc_ans="Third"),
        row("Cyd", loc="Who is Cyd?", loc_ans="Third"),
    )
    report, problems = check(path)
    assert problems == 3
    assert "questions with different answers: 1\n  line 1: She; line 2: Another\n" in report
    assert f"edited to another answer: 2\n  {path}:3\n  {path}:4\n" in report


def test_the_answer_that_is_edited_in_is_checked(tmp_path):
    bare = {k: v for k, v in row("Ada").items() if k != "ans"}
    path = write_lines(tmp_path / "rows.jsonl", {**bare, "answers": ["a"], "alt": " "})
    assert check(path)[1] == 0
    assert check(path, answer="alt")[1] == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"anything": 1}], "cannot be used: no fields that the suite knows"),
        ([{"requested_rewrite": [], "questions": []}], "MQuAKE"),
        ([row("Ada", ans="")], "cannot be used: no well-formed row"),
        ([3], "malformed rows: 1"),
    ],
)
def test_a_file_without_a_usable_row_has_a_problem(tmp_path, rows, words):
    report, problems = check(write_lines(tmp_path / "rows.jsonl", *rows))
    assert problems
    assert words in report


def test_the_real_splits_are_as_their_description_says(shared_data):
    zsre, fever = shared_data / "zsre", shared_data / "fever"
    report, malformed = check(
        zsre / "zsre_mend_eval_portability_gpt4.json.gz",
        against=zsre / "derived_train_with_template_rephrases.jsonl.gz",
    )
    assert malformed == 0
    assert number(report, "of 1,037 rows have a question that occurs there") == 0
    assert number(report, "of 1,037 rows that name a subject have one that occurs there") == 0
    report, malformed = check(
        fever / "derived_supports_refutes_eval.jsonl.gz",
        against=fever / "derived_supports_refutes_train.jsonl.gz",
    )
    assert malformed == 0
    assert number(report, "of 6,479 rows have a claim that occurs there") == 0
    assert number(report, "of 6,479 rows that name a page have one that occurs there") == 184
    report, malformed = check(shared_data / "counterfact" / "counterfact-train.json.gz")
    assert "malformed rows: 0\n" in report
    assert number(report, "rows repeat the prompt of an earlier row") == 77
    assert "prompts with different answers: 59\n" in report
    assert malformed == 59 + 225  # unrelated prompts that another row edits
