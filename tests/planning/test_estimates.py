"""What the paper's language models take, and whether a machine is large enough for it."""

from dataclasses import replace

import pytest
from configurations import load

from malmen.lm.catalogue import lookup
from malmen.planning.estimates import Cost, Machine, cost_table, costs, shortcomings

ONE = {"run": {"language_models": ["gpt2"]}}
LARGE = Machine(disk=1e15, host=1e15, gpu=1e15)


def cost_of(found: list[Cost], rule: str, what: str = "gpt2") -> Cost:
    (cost,) = [cost for cost in found if (cost.rule, cost.what) == (rule, what)]
    return cost


@pytest.fixture(scope="module")
def gpt2() -> list[Cost]:
    return costs(load("paper", ONE))


def test_every_rule_that_runs_a_language_model_has_a_cost(gpt2: list[Cost]) -> None:
    editors = ["malmen", "mend", "ft", "ultraedit"]
    assert [(cost.rule, cost.what) for cost in gpt2] == [
        *(("download", "data"), ("fetch", "gpt2"), ("prefix", "gpt2")),
        *(("train", "gpt2, malmen"), ("train", "gpt2, mend"), ("ablation_train", "gpt2")),
        *(("evaluate", f"gpt2, {editor}") for editor in editors),
    ]


def test_half_the_rows_take_half_the_disk_and_half_the_hours(gpt2: list[Cost]) -> None:
    rows = load("paper")["language_models"]["gpt2"]["rows"]
    half = {split: number // 2 for split, number in rows.items()}
    edits = {"edits": [16, 8192], "training": [{"edits": 64, "steps": 4}], "rows": half}
    found = costs(load("paper", {**ONE, "language_models": {"gpt2": edits}}))
    for field in ("disk", "hours"):
        whole = getattr(cost_of(gpt2, "prefix"), field)
        assert getattr(cost_of(found, "prefix"), field) == pytest.approx(whole / 2, rel=1e-9)


@pytest.mark.parametrize("editor", ["malmen", "mend"])
def test_training_needs_what_its_neediest_number_of_edits_needs(editor: str) -> None:
    stages = load("paper")["language_models"]["gpt2"]["training"]
    some = [stages[0], stages[4], stages[-1]]

    def device(training: list[dict]) -> float:
        found = costs(load("paper", {**ONE, "language_models": {"gpt2": {"training": training}}}))
        return cost_of(found, "train", f"gpt2, {editor}").device

    alone = [device([stage]) for stage in some]
    assert device(some) == max(alone) > alone[-1]  # the most edits are not the neediest


def test_ablations_need_no_less_than_training_with_fewer_tokens(gpt2: list[Cost]) -> None:
    ablations = cost_of(gpt2, "ablation_train")
    assert ablations.device >= cost_of(gpt2, "train", "gpt2, malmen").device
    assert ablations.disk / ablations.jobs == cost_of(gpt2, "train", "gpt2, malmen").disk / 9


@pytest.mark.slow
def test_the_hours_and_the_disk_of_training_are_those_of_its_stages(gpt2: list[Cost]) -> None:
    stages = load("paper")["language_models"]["gpt2"]["training"]
    parts = [
        costs(load("paper", {**ONE, "language_models": {"gpt2": {"training": [stage]}}}))
        for stage in (stages[0], stages[-1])
    ]
    first, last = (cost_of(part, "train", "gpt2, malmen") for part in parts)
    both = {**ONE, "language_models": {"gpt2": {"training": [stages[0], stages[-1]]}}}
    found = cost_of(costs(load("paper", both)), "train", "gpt2, malmen")
    assert found.hours == pytest.approx(first.hours + last.hours)
    assert found.disk == first.disk + last.disk  # editors and moments of every stage are kept
    assert found.jobs == 2


def test_weights_take_what_they_have(gpt2: list[Cost]) -> None:
    fetched = cost_of(gpt2, "fetch")
    assert fetched.download == 4 * 124_439_808  # GPT-2's parameters, in single precision
    assert lookup("gpt2").dtype == "float32"


def test_scales_without_the_papers_language_models_have_nothing_to_count() -> None:
    assert [cost.jobs for cost in costs(load("config"))] == [0]


def test_a_large_machine_has_no_shortcoming(gpt2: list[Cost]) -> None:
    assert shortcomings(gpt2, LARGE) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"disk": 1e9}, " GB of disk are needed, 1 GB are free"),
        ({"host": 5e8}, "fetch of gpt2 needs 1 GB of memory, there are 0 GB"),
        ({"gpu": 1e9}, "ablation_train of gpt2 needs a GPU of 5 GB, there are 1 GB"),
        ({"gpu": None}, "ablation_train of gpt2 needs a GPU of 5 GB, there is none"),
    ],
)
def test_each_shortcoming_is_named(gpt2: list[Cost], change: dict, message: str) -> None:
    (line,) = shortcomings(gpt2, replace(LARGE, **change))
    assert message in line


def test_the_table_ends_with_the_sums(gpt2: list[Cost]) -> None:
    lines = [line.split("|") for line in cost_table(gpt2).splitlines()]
    assert len(lines) == 2 + len(gpt2) + 1
    total = [cell.strip() for cell in lines[-1][1:-1]]
    assert total[0] == "all"
    assert total[2] == str(sum(cost.jobs for cost in gpt2))
    assert total[5] == f"{max(cost.device for cost in gpt2) / 1e9:.1f} GB"
