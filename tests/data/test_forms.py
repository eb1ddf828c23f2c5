"""CounterFact, nested and flat, as rows of zsRE's shape."""

import copy

import pytest
from row_files import FLAT, NESTED, ZSRE, write_lines

from malmen.data.forms import in_zsre_form
from malmen.data.importing import import_rows
from malmen.data.raw_rows import RawRow
from malmen.data.rows import ZsreRow
from malmen.support.errors import InputError

ROW = {
    "subject": "Ada",
    "src": "Ada speaks",
    "ans": "Dutch",
    "loc": "Bob speaks",
    "loc_ans": "Greek",
}


def rows_of(tmp_path, *cases, **options):
    path = write_lines(tmp_path / "cases.jsonl", *cases)
    return import_rows([path], task="completion", unrelated=None, n=None, seed=0, **options)


@pytest.mark.parametrize("answer", ["answers", "alt"])
@pytest.mark.parametrize(
    ("case", "rephrase", "relation"),
    [
        (FLAT, ("The language of Ada is",), None),
        (NESTED, tuple(NESTED["paraphrase_prompts"]), "P103"),
    ],
)
def test_a_case_becomes_a_row(tmp_path, case, rephrase, relation, answer):
    expected = ZsreRow(**ROW, rephrase=rephrase, relation=relation)
    assert rows_of(tmp_path, case, answer=answer) == [expected]


def test_other_splits_are_left_out_by_subject(tmp_path):
    other = copy.deepcopy(NESTED)
    other["requested_rewrite"] |= {"subject": "Eve"}
    first = write_lines(tmp_path / "first.jsonl", {**ZSRE, "subject": "ADA"})
    assert [row.subject for row in rows_of(tmp_path, NESTED, FLAT, other, exclude=[first])] == [
        "Eve"
    ]


def without(case, *path):
    case = copy.deepcopy(case)
    inner = case
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return case


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (without(FLAT, "prompt"), r"cases\.jsonl:1: field 'prompt': missing"),
        (without(FLAT, "rephrase_prompt"), "field 'rephrase_prompt': missing"),
        (without(FLAT, "locality_ground_truth"), "field 'locality_ground_truth': missing"),
        (without(NESTED, "paraphrase_prompts"), "field 'paraphrase_prompts': missing"),
        (
            without(NESTED, "requested_rewrite", "prompt"),
            "field 'requested_rewrite.prompt': missing",
        ),
        (without(NESTED, "requested_rewrite", "target_true"), "rewrite.target_true': missing"),
        ({**NESTED, "neighborhood_prompts": []}, "field 'loc': missing in 1 of 1 rows"),
        (
            {**NESTED, "requested_rewrite": "Ada"},
            "'requested_rewrite': a text instead of an object",
        ),
    ],
)
def test_what_is_wrong_is_named_as_it_stands_in_the_file(tmp_path, case, message):
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path, case)


def test_other_records_stay_as_they_are():
    record = RawRow("here", ZSRE)
    assert in_zsre_form(record) is record


def test_the_real_cases(shared_data):
    path = shared_data / "counterfact" / "counterfact-train.json.gz"
    rows = import_rows([path], task="completion", unrelated=None, n=None, seed=0)
    assert len(rows) == 10_000 - 77 - 197  # repeated prompts, and unrelated ones that are edited
    for row in rows:
        assert row.subject
        assert row.loc != row.src
