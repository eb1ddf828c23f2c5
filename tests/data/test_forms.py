"""The forms of the field, as rows of zsRE's shape."""

import copy
import json

import pytest
from row_files import FLAT, NESTED, ZSRE, write_lines

from malmen.data.forms import form_of, in_zsre_form
from malmen.data.importing import import_rows
from malmen.data.raw_rows import RawRow
from malmen.data.rows import ZsreRow, read_rows, write_rows
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


# One fact in the forms of the field, with what else their rows hold.
WAYS = {
    "nested CounterFact": NESTED,
    "flat CounterFact": FLAT,
    "EasyEdit": {k: v for k, v in FLAT.items() if k not in ("case_id", "ground_truth")},
    "request of EasyEdit": {
        "prompt": "Ada speaks",
        "subject": "Ada",
        "target_new": "Dutch",
        "rephrase_prompt": "The language of Ada is",
        "locality": {"neighborhood": {"prompt": ["Bob speaks", "x"], "ground_truth": ["Greek"]}},
        "portability": {"one_hop": {"prompt": "p", "ground_truth": "g"}},
    },
    "request of ROME": {
        "prompt": "{} speaks",
        "subject": "Ada",
        "target_new": {"str": "Dutch"},
        "rephrase_prompt": "The language of Ada is",
        "locality_prompt": "Bob speaks",
        "locality_ground_truth": "Greek",
    },
    "KnowEdit": {
        "subject": "Ada",
        "prompt": "Ada speaks",
        "target_new": "Dutch",
        "ground_truth": ["Greek"],
        "rephrase_prompt": ["The language of Ada is"],
        "portability": {"Reasoning": [{"prompt": "p", "ground_truth": [["g"]]}]},
        "locality": {
            "Forgetfulness": [],
            "Relation_Specificity": [{"prompt": "Bob speaks", "ground_truth": [["Greek", "El"]]}],
        },
    },
    "QAEdit": {
        "id": 1,
        "source": "x",
        "prompt": "Ada speaks",
        "target": "Dutch",
        "subject": "Ada",
        "rephrase": "The language of Ada is",
        "locality": [{"loc": "Bob speaks", "loc_ans": "Greek"}, {"loc": "x", "loc_ans": "y"}],
    },
    "WikiBigEdit": {
        "tag": "x",
        "subject": "Ada",
        "update": "Ada speaks",
        "rephrase": "The language of Ada is",
        "personas": "And Ada?",
        "ans": "Dutch",
        "loc": "Bob speaks",
        "loc_ans": "Greek",
        "mhop": "q",
        "mhop_ans": "a",
    },
    "MALMEN": {**ROW, "rephrase": "The language of Ada is"},
    "MEND": {
        "subject": "Ada",
        "src": "Ada speaks",
        "pred": "x",
        "rephrase": "The language of Ada is",
        "alt": "Dutch",
        "answers": ["Greek", "El"],
        "loc": "Bob speaks",
        "loc_ans": "Greek",
        "cond": "x >> y",
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_a_fact_is_the_same_in_every_form(tmp_path, way):
    [row] = rows_of(tmp_path, WAYS[way], answer="alt")
    assert (row.subject, row.src, row.ans) == ("Ada", "Ada speaks", "Dutch")
    assert (row.loc, row.loc_ans) == ("Bob speaks", "Greek")
    assert "The language of Ada is" in row.rephrase[0]
    assert read_rows(tmp_path / "cases.jsonl", "completion", answer="alt") == [row]
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl", "completion") == [row]


@pytest.mark.parametrize("form", WAYS)
@pytest.mark.parametrize("other", WAYS)
def test_rows_are_left_out_whatever_form_they_and_the_others_have(tmp_path, form, other):
    text = json.dumps(WAYS[form])
    rows = [json.loads(text.replace("Ada", name)) for name in ("Ada", "Eve", "Fay")]
    known = json.loads(json.dumps(WAYS[other]).replace("Ada", "EVE"))
    excluded = write_lines(tmp_path / "excluded.jsonl", known)
    left = rows_of(tmp_path, *rows, exclude=[excluded], answer="alt")
    assert {row.subject for row in left} == {"Ada", "Fay"}


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("MALMEN", "MEND")])
def test_prompts_are_left_out_where_no_subject_is_known(tmp_path, way):
    bare = {k: v for k, v in WAYS["MALMEN"].items() if k != "subject"}
    excluded = write_lines(tmp_path / "excluded.jsonl", {**bare, "src": "ada  SPEAKS?"})
    with pytest.raises(InputError, match="no rows are left"):
        rows_of(tmp_path, WAYS[way], exclude=[excluded])


@pytest.mark.parametrize(
    "other",
    [{"anything": 1}, {"loc": "Where?", "loc_ans": "Here"}, {"question": "a", "answer": ["b"]}],
)
def test_a_file_to_leave_out_that_names_nothing_is_refused(tmp_path, other):
    excluded = write_lines(tmp_path / "excluded.jsonl", ZSRE, other)
    with pytest.raises(InputError, match=r"excluded\.jsonl:2: neither subject nor question"):
        rows_of(tmp_path, FLAT, exclude=[excluded])


DECLINED = {
    "MQuAKE": {"requested_rewrite": [{"prompt": "{} speaks"}], "questions": [], "answer": "x"},
    "UnKE": {"id": 0, "question": "q", "answer": "a", "para_question": "p", "sub_question": []},
    "WikiBio": {"text": "t", "labels": "l", "concept": "c", "locality": {}},
}


@pytest.mark.parametrize("title", DECLINED)
def test_what_is_not_for_the_suite_is_named(tmp_path, title):
    assert form_of(RawRow("here", DECLINED[title])).title == title
    for options in ({}, {"exclude": [write_lines(tmp_path / "other.jsonl", DECLINED[title])]}):
        case = FLAT if options else DECLINED[title]
        with pytest.raises(InputError, match=f":1: {title}: "):
            rows_of(tmp_path, case, **options)


@pytest.mark.parametrize("empty", [{}, [], {"a": []}, {"a": [{"prompt": "", "ground_truth": "x"}]}])
def test_without_locality_an_unrelated_prompt_is_attached(tmp_path, empty):
    case = {**WAYS["KnowEdit"], "locality": empty}
    pairs = write_lines(tmp_path / "pairs.jsonl", {"loc": "Where?", "loc_ans": "Here"})
    rows = import_rows(
        [write_lines(tmp_path / "cases.jsonl", case)],
        task="completion",
        unrelated=pairs,
        n=None,
        seed=0,
    )
    assert [(row.loc, row.loc_ans) for row in rows] == [("Where?", "Here")]


@pytest.mark.parametrize(
    ("prompt", "at"),
    [("Unlike Ada of Mali, {} is", 20), ("{} unlike Ada is", None), ("{} is", None)],
)
def test_the_slot_of_the_source_is_kept(tmp_path, prompt, at):
    case = copy.deepcopy(NESTED)
    case["requested_rewrite"]["prompt"] = prompt
    [row] = rows_of(tmp_path, case)
    assert row.src == prompt.replace("{}", "Ada")
    assert row.subject_at == at
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl", "completion") == [row]
    wrong = write_lines(tmp_path / "wrong.jsonl", {**ZSRE, "subject": "Ada", "subject_at": 1})
    with pytest.raises(InputError, match="field 'subject_at': no subject begins there"):
        read_rows(wrong, "completion")


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
