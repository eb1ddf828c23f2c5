"""Memory: one graph gives the same gradient as two phases, and a child measures its own peak."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scrambled import learned, scrambled_editor
from tiny_folders import write_lines, write_lm, zsre_line
from tiny_models import EDITORS, KINDS, bits, random_facts, tiny_lm

from malmen.experiment import memory
from malmen.meta_gradient import meta_gradient
from malmen.recording.capture import capture
from malmen.results.memory import COLUMNS, PROCEDURES, read
from malmen.settings import HyperSettings
from malmen.support.errors import InputError
from malmen.support.files import read_json

ROOT = Path(__file__).parents[2]

# From Python 3.12 on, a fork is warned of where there are threads; the child runs in one.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EDITORS)
def test_one_graph_gives_the_gradient_of_two_phases(kind: str, name: str) -> None:
    lm = tiny_lm(kind)
    facts = random_facts(kind, 5)
    editor = scrambled_editor(name, lm, fact_batch=2, token_batch=3)
    record = capture(lm, lm.batches([fact.edit for fact in facts], size=3))
    editor.observe(record)
    before = bits(lm.model)
    loss = meta_gradient(editor, lm, record, facts, loc_coef=0.7)
    two_phases = {n: p.grad for n, p in learned(editor)}
    editor.zero_grad()
    plain = memory.plain_meta_gradient(editor, lm, record, facts, loc_coef=0.7)
    assert plain == pytest.approx(loss.total, rel=1e-12)
    for n, parameter in learned(editor):
        gradient = two_phases[n]
        assert gradient is not None
        assert gradient.abs().max() > 0, n
        assert (parameter.grad - gradient).abs().max() <= 1e-11 * gradient.abs().max(), n
    assert bits(lm.model) == before


@pytest.mark.parametrize("name", PROCEDURES)
def test_every_procedure_runs_and_leaves_the_model(name: str) -> None:
    lm = tiny_lm("gpt2", dtype=torch.float32)
    before = bits(lm.model)
    memory.PROCEDURES[name](lm, random_facts("gpt2", 5), HyperSettings(rank=4, fact_batch=2))
    assert bits(lm.model) == before
    assert list(memory.PROCEDURES) == list(PROCEDURES)


def test_the_peak_is_what_was_held_at_once() -> None:
    def hold() -> None:
        torch.ones(2**24)  # 64 MB

    def let_go() -> None:
        for size in range(1, 65):
            torch.ones(size * 2**14)  # 130 MB one after the other, 4 MB at once

    peak, seconds = memory.in_child(hold)
    assert 63 < peak < 80
    assert seconds > 0
    assert memory.in_child(let_go)[0] < 20


def test_a_child_that_fails_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="ended with exit status 1"):
        memory.in_child(lambda: 1 / 0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_procedure_ends_where_it_no_longer_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(work: Callable[[], object]) -> tuple[float, float]:
        name = next(n for n, run in memory.PROCEDURES.items() if run is work.func)
        edits = len(work.args[1])
        return {"One": 10.0 * edits}.get(name[:3], 50.0), 1.0

    monkeypatch.setattr(memory, "in_child", fake)
    lm, facts = tiny_lm("gpt2"), random_facts("gpt2", 16)
    found = memory.measure(
        lm, facts, HyperSettings(), edits=[8, 2, 4, 16], limit_mb=50, progress=False
    )
    assert list(found) == list(COLUMNS)
    assert {name: list(group["edits"]) for name, group in found.groupby("procedure")} == dict(
        zip(PROCEDURES, ([2, 4, 8, 16],) * 3 + ([2, 4, 8],), strict=True)
    )
    assert list(found[~found["fits"]]["edits"]) == [8]


@pytest.mark.parametrize("edits", [[], [0, 2], [2, 17]])
def test_counts_that_cannot_be_measured_are_refused(edits: list[int]) -> None:
    with pytest.raises(InputError, match="--edits: name numbers between 1 and 16"):
        memory.measure(
            tiny_lm("gpt2"), random_facts("gpt2", 16), HyperSettings(), edits=edits, limit_mb=50
        )


@pytest.mark.slow
def test_the_command_measures(tmp_path: Path) -> None:
    weights = write_lm(tmp_path / "lm", "gpt2_desk")
    rows = write_lines(tmp_path / "rows.jsonl", [zsre_line(i) for i in range(24)])

    def malmen(command: str) -> str:
        words = [sys.executable, "-m", "malmen", *command.split(), "--lm", "gpt2_desk"]
        words += ["--weights", str(weights), "--rows", str(rows)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    malmen("prefix --out-dir prefix")
    err = malmen(
        "memory --prefix prefix/rows.safetensors --edits 4 24 --limit-mb 5000 --rank 8"
        " --fact-batch 4 --out memory.csv"
    )
    assert "peak memory on GPT-2 (desk): 8 of 8 measurements" in err
    found = read(tmp_path / "memory.csv")
    assert len(found) == 8
    assert found["fits"].all()
    assert (found["peak_mb"] > 1).all()
    metadata = read_json(tmp_path / "memory.json")
    assert metadata["settings"]["limit_mb"] == 5000
