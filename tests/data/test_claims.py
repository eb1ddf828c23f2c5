"""Claims for a fact checker: their true labels, and none of them on both sides."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_folders import write_lines

from malmen.data.claims import checker_claims, read_claims
from malmen.support.errors import InputError

LABELS = st.sampled_from(["SUPPORTS", "REFUTES"])
CLAIMS = st.dictionaries(st.integers(0, 30).map("Claim {}.".format), LABELS, min_size=1)


def raw(folder: Path, name: str, claims: dict[str, str]) -> Path:
    lines = [{"claim": claim, "label": label} for claim, label in claims.items()]
    return write_lines(folder / name, lines)


def test_a_row_to_edit_tells_the_label_of_its_unrelated_claim(tmp_path: Path) -> None:
    row = {"prompt": "A.", "equiv_prompt": ["B."], "alt": "SUPPORTS"}
    lines = [{**row, "unrel_prompt": "C.", "unrel_ans": "REFUTES"}]
    assert read_claims([write_lines(tmp_path / "rows.jsonl", lines)]) == {"C.": "REFUTES"}


def test_the_first_label_of_a_claim_counts(tmp_path: Path) -> None:
    lines = [{"claim": "A.", "label": name} for name in ("REFUTES", "SUPPORTS")]
    assert read_claims([write_lines(tmp_path / "claims.jsonl", lines)]) == {"A.": "REFUTES"}


def test_an_unknown_label_is_refused(tmp_path: Path) -> None:
    path = raw(tmp_path, "claims.jsonl", {"A.": "NOT ENOUGH INFO"})
    with pytest.raises(InputError, match="unknown label 'NOT ENOUGH INFO'"):
        read_claims([path])


@settings(max_examples=20)  # each writes files
@given(seen=CLAIMS, others=CLAIMS, n=st.integers(1, 40), seed=st.integers(0, 99))
def test_no_claim_is_both_trained_and_tested_on(
    tmp_path_factory: pytest.TempPathFactory,
    seen: dict[str, str],
    others: dict[str, str],
    n: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("claims")
    files = [raw(folder, "train.jsonl", seen)], [raw(folder, "eval.jsonl", others)]
    fresh = {claim: label for claim, label in others.items() if claim not in seen}
    if not fresh:
        with pytest.raises(InputError, match="every claim is also trained on"):
            checker_claims(*files, n=n, n_held_out=n, seed=seed)
        return
    training, test = checker_claims(*files, n=n, n_held_out=n, seed=seed)
    for drawn, pool in ((training, seen), (test, fresh)):
        assert len(dict(drawn)) == len(drawn) == min(n, len(pool))
        assert set(drawn) <= set(pool.items())
