from pathlib import Path

import pandas as pd
import pytest
from synthetic import METADATA, evaluation
from synthetic_run import Run, write_evaluation, write_memory, write_run

from malmen.reporting.predicates import (
    Ablation,
    Capacity,
    Change,
    Difference,
    Evidence,
    Fit,
    Growth,
    NotTestableError,
    Time,
)
from malmen.results import per_fact

LM = "gptj_desk"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run"), trained_at=(16, 32))


@pytest.fixture(scope="module")
def evidence(run: Run) -> Evidence:
    return Evidence(
        evaluations=run.evaluations,
        ablations=run.ablations,
        trained=run.trained,
        statistics=run.statistics,
        memory=run.memory,
    )


def write(path: Path, editor: str, *, counts: tuple[int, ...], **columns: object) -> Path:
    """Write an evaluation some of whose columns hold one value."""
    frame = evaluation(editor, "smollm2", counts=counts).assign(**columns)
    per_fact.write(path, frame, METADATA)
    return path


def by_level(path: Path, editor: str, levels: dict[int, float]) -> Path:
    """Write an evaluation of one exact level of ES a count."""
    frame = evaluation(editor, "smollm2", counts=tuple(levels))
    per_fact.write(path, frame.assign(es=frame["edits"].map(levels)), METADATA)
    return path


def test_what_is_judged_on_an_editor_that_ended_by_budget_says_so(tmp_path: Path) -> None:
    files = []
    for editor, ended_by in (("MALMEN", "patience"), ("MEND", "budget"), ("FT", None)):
        trainings = {"16": {"ended_by": "patience"}, "32": {"ended_by": ended_by}}
        metadata = METADATA | ({"trainings": trainings} if ended_by else {})
        files.append(tmp_path / f"{editor}.parquet")
        per_fact.write(files[-1], evaluation(editor, LM, counts=(16, 32)), metadata)
    evidence = Evidence(evaluations=files)
    assert per_fact.endings(files)[LM, "MEND", 32] == "budget"
    spent = " (training ended by budget: MEND)"
    pair = {"editor": "MALMEN", "against": "MEND", "measure": "es"}
    for found in (
        Difference(**pair).find(evidence, LM),
        Capacity(**pair).find(evidence, LM),
        Change(editor="MEND", measure="es", since="smallest").find(evidence, LM),
    ):
        assert found.where.endswith(spent)
    found = Difference(**pair | {"against": "FT"}).find(evidence, LM)
    assert found.where == "at 32 edits"


def test_evidence_knows_what_ran(evidence: Evidence) -> None:
    assert evidence.lms == [LM, "fact_checker"]
    assert evidence.ablated == [LM]
    assert evidence.trained_at[LM, "MALMEN"] == 32
    with pytest.raises(NotTestableError, match="no results of MEMIT on MiniLM fact checker"):
        evidence.of("fact_checker", "MEMIT")


def test_difference_is_in_points_at_the_largest_shared_count(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "malmen.parquet", "MALMEN", counts=(16, 32), ls=0.75),
        write(tmp_path / "mend.parquet", "MEND", counts=(16, 32, 64), ls=0.5),
    ]
    test = Difference(editor="MALMEN", against="MEND", measure="ls")
    found = test.find(Evidence(evaluations=paths), "smollm2")
    assert found.interval == pytest.approx((25, 25, 25))
    assert (found.where, found.files) == ("at 32 edits", paths)


def test_difference_needs_a_shared_count(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "malmen.parquet", "MALMEN", counts=(16,)),
        write(tmp_path / "mend.parquet", "MEND", counts=(32,)),
    ]
    evidence = Evidence(evaluations=paths)
    for test in (
        Difference(editor="MALMEN", against="MEND", measure="es"),
        Capacity(editor="MALMEN", against="MEND", measure="es"),
    ):
        with pytest.raises(NotTestableError, match=r"MALMEN and MEND .*no common count"):
            test.find(evidence, "smollm2")


def test_ablation_is_the_full_editor_minus_the_variant(run: Run, evidence: Evidence) -> None:
    test = Ablation(variant="fixed_lambda", measure="es")
    assert test.lms(evidence) == [LM]
    found = test.find(evidence, LM)
    frames = [per_fact.read(path)[0].query("edits == 64") for path in found.files]
    difference = 100 * (frames[0]["es"].mean() - frames[1]["es"].mean())
    assert found.interval.value == pytest.approx(difference)
    assert [path.stem for path in found.files] == ["malmen", "fixed_lambda"]
    assert found.interval.low > 0  # a quarter of its facts were spoilt


def test_change_is_the_last_count_minus_the_first(tmp_path: Path) -> None:
    path = by_level(tmp_path / "mend.parquet", "MEND", {16: 0.75, 32: 0.0, 64: 0.5})
    test = Change(editor="MEND", measure="es", since="smallest")
    found = test.find(Evidence(evaluations=[path]), "smollm2")
    assert found.interval == pytest.approx((-25, -25, -25))
    assert found.where == "from 16 to 64 edits"


def test_change_since_training(run: Run, evidence: Evidence, tmp_path: Path) -> None:
    test = Change(editor="MALMEN", measure="es", since="trained")
    assert test.find(evidence, LM).where == "from 32 to 64 edits"
    with pytest.raises(NotTestableError, match="no record of the training of MALMEN"):
        test.find(Evidence(evaluations=run.evaluations), LM)
    small = [write_evaluation(tmp_path / "malmen.parquet", "MALMEN", LM)]
    frame, metadata = per_fact.read(small[0])
    per_fact.write(small[0], frame.query("edits <= 32"), metadata)
    with pytest.raises(NotTestableError, match="MALMEN was evaluated at no more than 32 edits"):
        test.find(Evidence(evaluations=small, trained=run.trained), LM)
    per_fact.write(small[0], frame.query("edits == 64"), metadata)
    with pytest.raises(NotTestableError, match="at no count it was trained at"):
        test.find(Evidence(evaluations=small, trained=run.trained), LM)


@pytest.mark.parametrize(
    ("mend", "ratio", "at_least"),
    [
        ({16: 0.75, 32: 0.5, 64: 0.25}, 2, False),  # as good at 32 edits as MALMEN at 64
        ({16: 0.75, 32: 0.25, 64: 0.5}, 4, False),  # what it reaches again does not count
        ({16: 0.25, 32: 0.25, 64: 0.25}, 4, True),  # not even at the fewest
        ({16: 0.5, 32: 0.5, 64: 0.5}, 1, False),
    ],
)
def test_capacity_compares_counts_of_equal_quality(
    mend: dict[int, float], ratio: float, at_least: bool, tmp_path: Path
) -> None:
    paths = [
        by_level(tmp_path / "malmen.parquet", "MALMEN", {16: 1.0, 32: 0.25, 64: 0.5}),
        by_level(tmp_path / "mend.parquet", "MEND", mend),
    ]
    test = Capacity(editor="MALMEN", against="MEND", measure="es")
    found = test.find(Evidence(evaluations=paths), "smollm2")
    assert found.interval == (ratio,) * 3
    assert found.at_least == at_least
    assert "MALMEN has 50.0 at 64 edits" in found.where


def test_capacity_of_equals_is_open(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "malmen.parquet", "MALMEN", counts=(16, 32, 64)),
        tmp_path / "mend.parquet",
    ]
    frame, metadata = per_fact.read(paths[0])
    per_fact.write(paths[1], frame.assign(editor="MEND"), metadata)
    test = Capacity(editor="MALMEN", against="MEND", measure="score")
    found = test.find(Evidence(evaluations=paths), "smollm2")
    assert (found.interval.low, found.interval.high) == (1, 4)


def test_time_counts_what_comes_before_editing(run: Run, evidence: Evidence) -> None:
    found = Time(editor="MALMEN", against="MEMIT").find(evidence, LM)
    assert found.interval.value == pytest.approx((6 + 0.96) / (7 + 0.96))
    assert pd.isna(found.interval.low)
    assert found.where == "7 s against 8 s, 64 edits"
    for missing, name in (("trained", "MALMEN"), ("statistics", "MEMIT")):
        files = {"trained": run.trained, "statistics": run.statistics} | {missing: []}
        without = Evidence(evaluations=run.evaluations, **files)
        with pytest.raises(NotTestableError, match=f"no record of what {name} took"):
            Time(editor="MALMEN", against="MEMIT").find(without, LM)


def test_growth_is_that_of_the_last_doubling(evidence: Evidence) -> None:
    assert Growth(procedure="training").lms(evidence) == [""]
    assert Growth(procedure="training").find(evidence, "").interval.value == 1
    found = Growth(procedure="one_graph").find(evidence, "")
    assert found.interval.value == pytest.approx(2)
    assert found.where == "100 MB at 1 edits, 800 MB at 8 edits, 1,600 MB at 16 edits"


def test_fit_compares_the_largest_counts_that_fit(run: Run, tmp_path: Path) -> None:
    test = Fit(procedure="training", against="one_graph")
    found = test.find(Evidence(evaluations=run.evaluations, memory=run.memory), "")
    assert (found.interval.value, found.at_least) == (2, True)
    assert found.where == "16 edits against 8, in 1,000 MB"
    memory = tmp_path / "memory.csv"
    write_memory(memory, plain=(100, 200))
    evidence = Evidence(evaluations=run.evaluations, memory=memory)
    with pytest.raises(NotTestableError, match="one_graph fits at up to 2 edits"):
        test.find(evidence, "")


def test_memory_has_to_be_measured(run: Run, tmp_path: Path) -> None:
    evidence = Evidence(evaluations=run.evaluations)
    for test in (Growth(procedure="editing"), Fit(procedure="editing", against="one_graph")):
        with pytest.raises(NotTestableError, match="memory was not measured"):
            test.find(evidence, "")
    memory = tmp_path / "memory.csv"
    write_memory(memory, plain=(100,))
    with pytest.raises(NotTestableError, match="no memory was measured at 0 edits or fewer"):
        Growth(procedure="editing").find(Evidence(evaluations=[], memory=memory), "")
