"""The benchmark: equal losses, times taken by turns, and what it makes of them."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from figure_checks import assert_legible
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import bits

from benchmarks import timing
from benchmarks.complexity import (
    FORMS,
    OURS,
    RELEASED,
    Sizes,
    product_counter,
    slope,
    solve_operations,
    time_of_solves,
    time_of_steps,
)
from benchmarks.complexity_figure import (
    BEYOND,
    KEYS,
    LIMIT,
    MEMORY,
    SOLVE,
    STEP,
    complexity_figure,
    curves,
)
from benchmarks.contests import FIRST, STORED, Sides, editing, meta_training, values
from benchmarks.shapes import (
    GPT2,
    GPTJ,
    SMALL,
    TINY,
    Shape,
    examples_of,
    language_model,
    random_contexts,
    random_facts,
    random_model,
    random_questions,
)
from benchmarks.timing import Comparison, at_once, take_turns
from malmen.normal_equation import Form, parameter_shift
from malmen.support.files import read_json

ROOT = Path(__file__).parents[1]

SIZES = Sizes(edits=[2, 4], memory_edits=[], released=2, key_sizes=[4, 8], columns=6, value_size=3)


# --- shapes ---


def test_a_language_model_shares_weights_and_leaves_the_bare_model_alone() -> None:
    model = random_model(TINY)
    lm = language_model(model, TINY)
    assert bits(model) == bits(random_model(TINY))
    for name, layer in lm.layers.items():
        assert layer.weight is model.get_submodule(name).weight
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert list(lm.layers) == ["transformer.h.1.mlp.c_proj", "transformer.h.2.mlp.c_proj"]


@pytest.mark.parametrize(("shape", "first"), [(GPT2, 6), (GPTJ, 22), (SMALL, 2)])
def test_the_last_blocks_are_edited(shape: Shape, first: int) -> None:
    assert shape.entry.frozen == first
    assert [int(name.split(".")[2]) for name in shape.entry.edited] == list(
        range(first, shape.blocks)
    )


def test_facts_are_as_long_as_they_are_said_to_be() -> None:
    facts = random_facts(TINY, 2000)
    examples = examples_of(facts)
    assert np.mean([len(example.ids) for example in examples]) == pytest.approx(19.6, abs=0.3)
    assert np.mean([len(example.targets) for example in examples]) == pytest.approx(3.1, abs=0.1)
    for example in examples[:50]:
        assert example.positions[-1] == len(example.ids) - 1
    assert all(fact.edit.targets == fact.equivalent.targets for fact in facts)


def test_questions_name_their_subjects() -> None:
    for question in random_questions(TINY, 20):
        assert question.prompt[: question.subject_end].endswith(f" {question.subject}")
    contexts = random_contexts(TINY, 3, length=5)
    assert [len(context.split()) for context in contexts] == [0, 5, 5]


# --- turns ---


def test_only_the_work_is_timed_and_everything_takes_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, done = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def spend(seconds: float, what: str) -> str:
        clock[0] += seconds
        done.append(what)
        return f"{what} {len(done)}"

    def prepared() -> Callable[[], str]:
        spend(100, "ready")
        return partial(spend, 2, "first")

    tasks = {"first": prepared, "second": at_once(partial(spend, 3, "second"))}
    runs = take_turns("", tasks, turns=2, progress=False)
    assert done == ["ready", "first", "second"] * 2
    assert runs["first"].seconds == [2, 2]
    assert runs["second"].seconds == [3, 3]
    assert runs["first"].result == "first 2"  # of the first turn


times = st.floats(0.01, 100)


@given(pairs=st.lists(st.tuples(times, times), min_size=1, max_size=6), target=times)
def test_the_ratio_is_that_of_the_seconds_beside_it(
    pairs: list[tuple[float, float]], target: float
) -> None:
    ours, plain = (list(seconds) for seconds in zip(*pairs, strict=True))
    comparison = Comparison(work="", ours=ours, plain=plain, target=target, difference=0.0)
    row = comparison.row()
    assert list(row)[:5] == ["work", "ours_s", "plain_s", "ratio", "target"]
    assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
    assert row["ratio_low"] <= row["ratio"] * (1 + 1e-12)
    assert row["ratio"] <= row["ratio_high"] * (1 + 1e-12)
    assert row["ours_low_s"] <= row["ours_s"] <= row["ours_high_s"]
    assert row["met"] == (row["ratio"] >= target)


# --- contests ---


@pytest.fixture(scope="module")
def sides() -> Sides:
    return Sides.of(TINY, torch.device("cpu"))


def test_both_sides_of_a_step_have_equal_losses(sides: Sides) -> None:
    first, stored = meta_training(sides, edits=3, turns=1, targets={FIRST: 2.5, STORED: 4.0})
    assert first.work.endswith(f"tiny GPT-2, 3 edits, {FIRST}")
    assert stored.target == 4.0
    assert first.plain == stored.plain
    assert max(first.difference, stored.difference) <= 1e-5


def test_both_sides_of_an_edit_have_equal_scores(sides: Sides) -> None:
    assert editing(sides, edits=3, turns=1).difference == 0


def test_values_are_compared_fact_by_fact(sides: Sides) -> None:
    found = values(sides, facts=4, alone=2, block=0, turns=1)
    assert found.difference <= 0.05  # Adam amplifies rounding; other facts' would differ by 1


# --- complexity ---


@given(
    exponent=st.floats(-3, 3),
    factor=st.floats(1e-3, 1e3),
    x=st.lists(st.floats(1, 1e4), min_size=2, max_size=8, unique_by=lambda v: round(np.log(v), 1)),
)
def test_the_slope_is_the_exponent_of_a_power_law(
    exponent: float, factor: float, x: list[float]
) -> None:
    assert slope(x, [factor * v**exponent for v in x]) == pytest.approx(exponent, abs=1e-6)


@given(
    form=st.sampled_from(FORMS),
    d=st.integers(1, 20),
    n=st.integers(1, 20),
    value_size=st.integers(1, 20),
)
def test_operations_of_a_solve_are_those_of_its_products_and_factors(
    form: Form, d: int, n: int, value_size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(d, n, generator=generator, dtype=torch.float64)
    differences = torch.randn(value_size, n, generator=generator, dtype=torch.float64)
    lam = torch.ones((), dtype=torch.float64)
    with product_counter() as counter:
        shift = parameter_shift(keys, differences.requires_grad_(), lam, form=form)
        shift.sum().backward()
    order = d if form == "primal" else n
    factors = order**3 / 3 + 4 * value_size * order**2  # which are not counted
    counted = counter.get_total_flops()
    assert counted == pytest.approx(solve_operations(form, d, n, value_size) - factors)


def test_steps_and_solves_are_measured_at_every_size() -> None:
    steps = time_of_steps(TINY, SIZES)
    assert list(zip(steps["procedure"], steps["edits"], strict=True)) == [
        (OURS, 2),
        (RELEASED, 2),
        (OURS, 4),
    ]
    assert (steps["seconds"] > 0).all()
    operations = steps[steps["procedure"] == OURS]["operations"]
    assert operations.is_monotonic_increasing
    solves = time_of_solves(SIZES)
    assert list(zip(solves["form"], solves["d"], strict=True)) == [
        (form, d) for d in (4, 8) for form in FORMS
    ]


@pytest.fixture
def measured() -> pd.DataFrame:
    """Curves of made-up measurements, over the range of real ones."""
    edits = 2 ** np.arange(3, 15)
    few = edits[:8]
    steps = pd.DataFrame(
        {
            "procedure": [OURS] * len(edits) + [RELEASED] * len(few),
            "edits": [*edits, *few],
            "seconds": [*(0.05 + 2e-3 * edits), *(0.1 + 1e-2 * few)],
            "operations": [*(1e8 * edits), *(1e8 * few)],
        }
    )
    memory = steps[["procedure", "edits"]].assign(
        peak_mb=lambda f: 40 + 0.02 * f["edits"], keys_mb=lambda f: 0.015 * f["edits"]
    )
    sizes = 2.0 ** np.arange(7, 13)
    solves = pd.concat(
        pd.DataFrame(
            {"form": form, "d": sizes, "seconds": 1e-9 * sizes**power, "operations": sizes}
        )
        for form, power in (("primal", 3), ("dual", 1))
    )
    return curves(steps, memory, solves, {"float32": 1e11, "float64": 5e10})


def test_what_is_drawn_follows_from_what_was_measured(measured: pd.DataFrame) -> None:
    line = measured.set_index(["panel", "line", "x"])["value"]
    assert line[STEP, LIMIT, 16] == pytest.approx(16 * 1e8 / 1e11)
    assert line[MEMORY, OURS, 16] - line[MEMORY, KEYS, 16] == pytest.approx(
        line[MEMORY, BEYOND, 16]
    )
    assert line[SOLVE, "limit, dual", 256] == pytest.approx(256 / 5e10)
    slopes = measured.set_index(["panel", "line"])["slope"]
    assert slopes[SOLVE, "primal"].iloc[0] == pytest.approx(3)
    assert slopes[SOLVE, "dual"].iloc[0] == pytest.approx(1)


def test_the_figure_is_legible_and_states_the_slopes(measured: pd.DataFrame) -> None:
    drawing = complexity_figure(measured, shape="a shape", solve="n = 512", machine="2 threads")
    assert "solve time: dual 1.00, primal 3.00, limit, dual" in drawing.caption.text
    assert_legible(lambda: drawing.figure)


# --- the command ---


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command writes, run at a tiny size."""
    folder = tmp_path_factory.mktemp("bench")
    words = [sys.executable, "-m", "benchmarks.speed", "--quick", "--turns", "2"]
    done = subprocess.run(
        [*words, "--out-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| ratio" in done.stdout
    return folder


@pytest.mark.slow
def test_the_command_writes_ratios_figure_and_machine(results: Path) -> None:
    summary = pd.read_csv(results / "summary.csv")
    assert list(summary)[:5] == ["work", "ours_s", "plain_s", "ratio", "target"]
    starts = ["meta-training"] * 2 + ["editing and evaluating", "MEMIT's v*", *["peak memory"] * 2]
    assert all(work.startswith(start) for work, start in zip(summary["work"], starts, strict=True))
    assert (summary["difference"][:2] <= 1e-5).all()
    assert summary["turns"][:4].tolist() == [2, 2, 2, 1]
    about = read_json(results / "machine.json")
    assert about["hardware"]["cpu"]
    assert about["settings"]["threads"] == 1
    assert about["commit"][:12] in (results / "summary.md").read_text()
    assert {path.suffix for path in results.glob("figure_complexity.*")} == {".pdf", ".png", ".csv"}


@pytest.mark.slow
def test_stored_keys_are_those_of_the_step(results: Path) -> None:
    drawn = pd.read_csv(results / "figure_complexity.csv")
    keys = drawn[drawn["line"] == KEYS]
    facts = random_facts(TINY, 4)  # those that the command drew
    for edits, value in zip(keys["x"], keys["value"], strict=True):
        tokens = sum(len(fact.edit.positions) for fact in facts[: int(edits)])
        assert value == pytest.approx(tokens * TINY.edited * 5 * TINY.width * 4 / 2**20)
