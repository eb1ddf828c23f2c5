from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import Run, write_run

from malmen.__main__ import main
from malmen.reporting.claims import (
    DOES_NOT_HOLD,
    HOLDS,
    NOT_TESTABLE,
    Claim,
    Verdict,
    evaluate_claims,
    judge,
    read_claims,
)
from malmen.reporting.predicates import KINDS, Evidence, Found, NotTestableError
from malmen.results.bootstrap import Interval
from malmen.support.errors import InputError
from malmen.tables.score_tables import VARIANTS

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "workflow" / "claims.yaml"
NAN = float("nan")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def evidence(run: Run) -> Evidence:
    return Evidence(
        evaluations=run.evaluations,
        ablations=run.ablations,
        trained=run.trained,
        statistics=run.statistics,
        memory=run.memory,
    )


@dataclass(frozen=True)
class Fixed:
    """A predicate that finds what it is told."""

    unit: ClassVar[Any] = "points"
    of_lm: ClassVar[bool] = True
    found: Interval | None
    at_least: bool = False
    names: Sequence[str] = ("smollm2",)

    def lms(self, evidence: Evidence) -> Sequence[str]:
        return self.names

    def find(self, evidence: Evidence, lm: str) -> Found:
        if self.found is None:
            raise NotTestableError("nothing there")
        return Found(interval=self.found, where="somewhere", files=[], at_least=self.at_least)


def verdict(test: Fixed, **bound: float) -> Verdict:
    claim = Claim(id="x", text="X.", source="us", test=test, **bound)
    (found,) = judge(claim, Evidence(evaluations=[]))
    return found


# --- verdicts ------------------------------------------------------------------------------------


@given(ends=st.tuples(*[st.floats(-100, 100)] * 3).map(sorted), bound=st.floats(-100, 100))
def test_a_claim_holds_if_its_whole_interval_does(ends: list[float], bound: float) -> None:
    low, value, high = ends
    test = Fixed(Interval(value, low, high))
    assert (verdict(test, above=bound).status == HOLDS) == (low > bound)
    assert (verdict(test, below=bound).status == HOLDS) == (high < bound)


@pytest.mark.parametrize(
    ("interval", "status", "reason"),
    [
        (Interval(5, 1, 9), HOLDS, "somewhere"),
        (Interval(5, -1, 9), DOES_NOT_HOLD, "not shown, the interval holds 0: somewhere"),
        (Interval(-5, -9, 1), DOES_NOT_HOLD, "not shown, the interval holds 0: somewhere"),
        (Interval(-5, -9, -1), DOES_NOT_HOLD, "somewhere"),
        (Interval(0, 0, 0), DOES_NOT_HOLD, "somewhere"),
        (Interval(5, NAN, NAN), HOLDS, "somewhere"),
        (Interval(-5, NAN, NAN), DOES_NOT_HOLD, "somewhere"),
    ],
)
def test_a_verdict_says_what_was_shown(interval: Interval, status: str, reason: str) -> None:
    found = verdict(Fixed(interval), above=0)
    assert (found.status, found.reason) == (status, reason)
    mirrored = Interval(-interval.value, -interval.high, -interval.low)
    found = verdict(Fixed(mirrored), below=0)
    assert (found.status, found.reason) == (status, reason)


def test_what_is_only_known_to_be_no_smaller_refutes_nothing() -> None:
    found = verdict(Fixed(Interval(64, 32, 64), at_least=True), above=100)
    assert found.status == NOT_TESTABLE
    assert found.reason == "these counts do not reach > 100 points: somewhere"
    assert found.value == "≥ 64 [32, 64]"
    assert verdict(Fixed(Interval(64, 32, 64), at_least=True), above=1).status == HOLDS


def test_missing_results_are_said_to_be_missing() -> None:
    found = verdict(Fixed(None), above=0)
    assert (found.status, found.reason, found.value) == (NOT_TESTABLE, "nothing there", "–")
    assert verdict(Fixed(None, names=()), above=0).reason == "no results to test it in"


def test_a_claim_is_judged_on_each_language_model() -> None:
    test = Fixed(None, names=("smollm2", "t5_desk"))
    claim = Claim(id="x", text="X.", source="us", test=test, above=0)
    assert [one.lm for one in judge(claim, Evidence(evaluations=[]))] == ["smollm2", "t5_desk"]
    named = Claim(
        id="x", text="X.", source="us", test=test, above=0, language_models=("gptj_desk",)
    )
    assert [one.lm for one in judge(named, Evidence(evaluations=[]))] == ["gptj_desk"]


# --- the suite's claims --------------------------------------------------------------------------


def test_every_claim_gets_a_verdict(
    evidence: Evidence, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = evaluate_claims(CLAIMS, evidence, tmp_path)
    claims = read_claims(CLAIMS)
    assert list(dict.fromkeys(one.claim.id for one in verdicts)) == [one.id for one in claims]
    by_id = {(one.claim.id, one.lm): one.status for one in verdicts}
    # The invented editors fall off in the order MALMEN, UltraEdit, MEMIT, MEND, FT.
    for claim in ("better-than-mend", "better-than-ft", "better-than-memit"):
        assert by_id[claim, "gptj_desk"] == HOLDS
    assert by_id["lower-locality-than-memit", "gptj_desk"] == DOES_NOT_HOLD
    assert by_id["hundreds-of-times-mend", "fact_checker"] == NOT_TESTABLE
    assert by_id["training-memory-is-flat", ""] == HOLDS
    assert by_id["one-graph-grows", ""] == HOLDS
    assert by_id["one-graph-stops-fitting", ""] == HOLDS
    assert by_id["learned-lambda-helps", "gptj_desk"] == HOLDS

    table = pd.read_csv(tmp_path / "claims.csv", keep_default_na=False)
    assert list(table["status"]) == [one.status for one in verdicts]
    markdown = (tmp_path / "claims.md").read_text("utf-8")
    printed = capsys.readouterr().out
    number = Counter(one.status for one in verdicts)
    for text in (markdown, printed):
        assert "Claims at desk scale: " in text
        assert f"{number[HOLDS]} hold, {number[DOES_NOT_HOLD]} do not hold" in text
    for status, count in number.items():
        assert markdown.count(f"| **{status}**") == printed.count(f"  {status.upper()}") == count
    assert markdown.count("evaluations/gptj_desk/malmen.parquet") >= 5


def test_nothing_but_evaluations_is_needed(run: Run, tmp_path: Path) -> None:
    verdicts = evaluate_claims(CLAIMS, Evidence(evaluations=run.evaluations), tmp_path)
    status = {one.claim.id: one for one in verdicts}
    for claim in ("training-memory-is-flat", "faster-than-memit", "normaliser-helps"):
        assert status[claim].status == NOT_TESTABLE


def test_the_claims_use_every_kind_and_variant() -> None:
    tests = [claim.test for claim in read_claims(CLAIMS)]
    assert {type(test) for test in tests} == set(KINDS.values())
    ablated = {getattr(test, "variant", None) for test in tests} - {None}
    assert ablated == set(VARIANTS) - {"malmen"}


# --- reading -------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "id": "a",
    "text": "A.",
    "source": "us",
    "language_models": "all",
    "test": {"kind": "difference", "editor": "MALMEN", "against": "MEND", "measure": "es"},
    "above": 0,
}


def test_a_good_claim_is_read(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([GOOD, GOOD | {"id": "b", "language_models": ["smollm2"]}]))
    first, second = read_claims(path)
    assert first.language_models is None
    assert second.language_models == ("smollm2",)
    assert first.bound == "> 0 points"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[", "not YAML"),
        ([], "not a list of claims"),
        (["x"], "claim 1: not a mapping"),
        ([GOOD, GOOD], "2 claims have the id 'a'"),
        ([GOOD | {"txt": "?"}], r"claim 1 \(a\): unknown key 'txt' \(choices: id, text"),
        ([GOOD | {"text": ""}], "text: expected text, got ''"),
        ([{k: v for k, v in GOOD.items() if k != "source"}], "key 'source' is missing"),
        ([{k: v for k, v in GOOD.items() if k != "above"}], "give either 'above' or 'below'"),
        ([GOOD | {"below": 0}], "give either 'above' or 'below'"),
        ([GOOD | {"above": "0"}], "above: expected a number, got '0'"),
        ([GOOD | {"above": float("nan")}], "above: expected a number, got nan"),
        ([GOOD | {"language_models": ["gpt5"]}], "unknown language model 'gpt5'.*t5_desk"),
        ([GOOD | {"test": {"editor": "MEND"}}], "test: key 'kind' is missing"),
        ([GOOD | {"test": {"kind": "taste"}}], "unknown kind 'taste'.*difference, ablation"),
        (
            [GOOD | {"test": GOOD["test"] | {"editor": "mend"}}],
            "test: editor: unknown value 'mend'.*MALMEN",
        ),
        ([GOOD | {"test": GOOD["test"] | {"measur": "es"}}], "unknown key 'measur'.*measure"),
        (
            [GOOD | {"test": {"kind": "growth", "procedure": "training"}}],
            "this kind of test takes no key 'language_models'",
        ),
        (
            [{k: v for k, v in GOOD.items() if k != "language_models"}],
            "this kind of test needs key 'language_models'",
        ),
    ],
)
def test_a_malformed_claim_is_refused(entries: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries))
    with pytest.raises(InputError, match=message):
        read_claims(path)


def test_missing_claims_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: no such file"):
        read_claims(tmp_path / "none.yaml")


def test_the_command_passes_every_kind_of_result(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["malmen", "claims", "--claims", CLAIMS, "--out-dir", tmp_path, "--memory", run.memory]
    for option in ("evaluations", "ablations", "trained", "statistics"):
        words += [f"--{option}", *getattr(run, option)]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    main()
    table = pd.read_csv(tmp_path / "claims.csv").set_index("id")
    for claim in (
        "better-than-mend",
        "learned-lambda-helps",
        "faster-than-memit",
        "one-graph-grows",
    ):
        assert set(table.loc[[claim], "status"]) <= {HOLDS, DOES_NOT_HOLD}


def test_of_the_language_models_named_those_with_results_are_judged(evidence: Evidence) -> None:
    (claim,) = [c for c in read_claims(CLAIMS) if c.id == "better-than-memit"]
    assert claim.language_models == ("gptj_desk", "gptj")
    assert [verdict.lm for verdict in judge(claim, evidence)] == ["gptj_desk"]
