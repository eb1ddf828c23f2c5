import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import harmonic_mean
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import EDITORS, bits, random_facts, tiny_lm

from malmen import training
from malmen.evaluation import evaluate
from malmen.lm.batches import Example
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.settings import HyperSettings, TrainingSettings
from malmen.support.errors import InputError
from malmen.support.files import read_safetensors
from malmen.training import Ending, MetaTraining, NonFiniteError, is_out_of_patience

editors = pytest.mark.parametrize("name", EDITORS)

FACTS, EDITS, STEPS = 14, 4, 6  # three steps an epoch, two facts left over


def new_training(
    checkpoint: Path,
    *,
    name: str = "malmen",
    lm: LanguageModel | None = None,
    facts: list[EncodedFact] | None = None,
    validation: int = 5,
    edits: int = EDITS,
    steps: int = STEPS,
    seed: int = 0,
    initial: int = 0,
    learning_rate: float = 1e-2,
    hyper: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> MetaTraining:
    """Return a run on a tiny Llama in single precision; ``initial`` seeds the editor's weights."""
    lm = lm or tiny_lm("llama", dtype=torch.float32)
    sizes = {"rank": 4, "fact_batch": 3, "token_batch": 7}
    hyper_settings = HyperSettings(learning_rate=learning_rate, **{**sizes, **hyper})
    with torch.random.fork_rng():
        torch.manual_seed(initial)
        editor = EDITORS[name](lm.shapes, hyper_settings)
    return MetaTraining(
        editor,
        lm,
        random_facts("llama", FACTS) if facts is None else facts,
        random_facts("llama", validation, seed=1),
        edits=edits,
        steps=steps,
        settings=TrainingSettings(**{"meta_learning_rate": 1e-3, **settings}),
        seed=seed,
        checkpoint=checkpoint,
    )


def state(run: MetaTraining) -> tuple[dict[str, bytes], dict[str, bytes], list[dict[str, float]]]:
    """Everything that training changes, to be compared bit for bit."""
    moments = {
        f"{index}.{name}": tensor.numpy().tobytes()
        for index, state in run.optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }
    assert len(moments) == 3 * sum(p.requires_grad for p in run.editor.parameters())
    log = [{k: v for k, v in entry.items() if k != "seconds"} for entry in run.log]
    return bits(run.editor), moments, log


def steps_in(checkpoint: Path) -> int:
    tensors, log = read_safetensors(checkpoint)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    return len(log)


def interrupt_in_step(
    monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException]
) -> None:
    """Let the meta-gradient of a step (the first is 1) raise an error, once."""
    calls = 0
    whole = training.meta_gradient

    def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            raise error
        return whole(*args, **kwargs)

    monkeypatch.setattr(training, "meta_gradient", broken)


# --- resumption ---


@editors
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(("every", "kept"), [(1, 3), (2, 2), (4, 0)])
def test_an_interrupted_run_ends_in_the_same_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: type[BaseException],
    every: int,
    kept: int,
) -> None:
    straight = new_training(tmp_path / "straight.safetensors", name=name)
    straight.run(progress=False)

    path = tmp_path / "new" / "checkpoint.safetensors"
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 4, error)
        with pytest.raises(error):
            new_training(path, name=name, checkpoint_every=every).run(progress=False)
    assert path.exists() == bool(kept)
    if kept:
        assert steps_in(path) == kept

    # With a checkpoint, initial weights do not matter: all that counts is in the file.
    resumed = new_training(path, name=name, checkpoint_every=every, initial=99 if kept else 0)
    resumed.run(progress=False)
    assert state(resumed) == state(straight)
    assert [entry["step"] for entry in resumed.log] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    "hyper", [{"learn_lambda": False}, {"normalise": False}, {"cached": "all"}], ids=str
)
def test_so_does_one_with_a_setting_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hyper: dict[str, Any]
) -> None:
    straight = new_training(tmp_path / "straight.safetensors", hyper=hyper)
    straight.run(progress=False)
    path = tmp_path / "checkpoint.safetensors"
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 4, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            new_training(path, hyper=hyper).run(progress=False)
    resumed = new_training(path, hyper=hyper, initial=99)
    resumed.run(progress=False)
    assert state(resumed) == state(straight)
    assert state(resumed) != state(run_with_defaults(tmp_path))


@editors
def test_where_keys_are_kept_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hyper = {"cached": "all"}  # more tokens than keys are wide: the moments are summed
    held = new_training(tmp_path / "held.safetensors", name=name, hyper=hyper)
    held.run(progress=False)
    path = tmp_path / "spilled.safetensors"
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 4, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            new_training(path, name=name, hyper={**hyper, "memory_mb": 0}).run(progress=False)
    spilled = new_training(path, name=name, hyper={**hyper, "memory_mb": 0}, initial=99)
    spilled.run(progress=False)
    assert state(spilled) == state(held)


def run_with_defaults(tmp_path: Path) -> MetaTraining:
    run = new_training(tmp_path / "defaults.safetensors")
    run.run(progress=False)
    return run


DYING = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_training import new_training

replace, calls = os.replace, 0

def die(source, target):
    global calls
    calls += 1
    if calls == 4:  # the checkpoint of step 4 is written, and not yet in its place
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = die
new_training(Path(sys.argv[1])).run(progress=False)
"""


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    straight = new_training(tmp_path / "straight.safetensors")
    straight.run(progress=False)

    path = tmp_path / "killed" / "checkpoint.safetensors"
    tests = Path(__file__).parent
    dying = subprocess.run(
        [sys.executable, "-c", DYING, str(path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tests), str(tests / "support"), str(tests.parent)]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert dying.returncode == -signal.SIGKILL, dying.stderr
    assert steps_in(path) == 3
    assert len(list(path.parent.iterdir())) == 2  # kill -9 leaves the temporary file behind

    resumed = new_training(path, initial=99)
    resumed.run(progress=False)
    assert state(resumed) == state(straight)


def test_a_finished_run_has_nothing_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    first = new_training(path)
    first.run(progress=False)
    interrupt_in_step(monkeypatch, 1, AssertionError)
    again = new_training(path, initial=99)
    again.run(progress=False)
    assert state(again) == state(first)


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(tmp_path: Path) -> None:
    def final(number: int, **changes: int) -> dict[str, bytes]:
        run = new_training(tmp_path / f"{number}.safetensors", **changes)
        run.run(progress=False)
        return bits(run.editor)

    first = final(0)
    assert final(1) == first
    assert final(2, seed=1) != first  # other facts in a step
    assert final(3, initial=1) != first  # other initial weights


@editors
def test_a_run_goes_on_with_the_moments_of_another(tmp_path: Path, name: str) -> None:
    moments = tmp_path / "moments.safetensors"
    first = new_training(tmp_path / "first.safetensors", name=name, steps=3)
    first.run(progress=False)
    first.save_moments(moments)
    second = new_training(tmp_path / "second.safetensors", name=name, edits=2 * EDITS)
    second.editor.load_state_dict(first.editor.state_dict())
    second.continue_from(moments)
    assert state(second)[:2] == state(first)[:2]
    second.run(progress=False)
    steps = {state["step"].item() for state in second.optimizer.state_dict()["state"].values()}
    assert steps == {3 + second.ending.best_step}


def test_moments_of_another_editor_are_refused(tmp_path: Path) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors", steps=1)
    run.run(progress=False)
    run.save_moments(tmp_path / "moments.safetensors")
    other = new_training(tmp_path / "other.safetensors", hyper={"rank": 5})
    for file in ("moments.safetensors", "checkpoint.safetensors"):
        with pytest.raises(InputError, match="not Adam's moments of this editor"):
            other.continue_from(tmp_path / file)


def test_the_language_model_is_left_as_it_was(tmp_path: Path) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors")
    before = bits(run.lm.model)
    run.run(progress=False)
    assert bits(run.lm.model) == before
    assert all(p.grad is None and not p.requires_grad for p in run.lm.model.parameters())


def test_forgetting_removes_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run = new_training(path, steps=1)
    run.forget()  # nothing there yet, and no error
    run.run(progress=False)
    assert path.exists()
    run.forget()
    assert not list(tmp_path.iterdir())


# --- the end ---


def scripted(monkeypatch: pytest.MonkeyPatch, scores: Mapping[int, float]) -> None:
    """Let validation after these steps give these scores, whatever the editor is."""

    def validate(run: MetaTraining) -> dict[str, float]:
        names = ("es", "gs", "ls", "ls_consistency", "score")
        step = run.log[-1]["step"] + 1 if run.log else int(not run.continues)
        return {f"validation_{name}": scores[step] for name in names}

    monkeypatch.setattr(MetaTraining, "_validate", validate)


def bits_after(tmp_path: Path, step: int) -> dict[str, bytes]:
    """The editor after so many steps of the run that the tests below end in various ways."""
    run = new_training(tmp_path / f"{step}.safetensors", steps=step, validation=0)
    run.run(progress=False)
    return bits(run.editor)


RISING = dict(enumerate((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 1))
PEAKED = dict(enumerate((0.1, 0.5, 0.4, 0.501, 0.3, 0.2), 1))


@pytest.mark.parametrize(
    ("scores", "settings", "expected"),
    [
        (RISING, {"patience": 1}, Ending("budget", 6, 6, 0.6)),
        (RISING, {"patience": 1, "margin": 0.15}, Ending("patience", 2, 2, 0.2)),
        (RISING, {"patience": 2, "margin": 0.15}, Ending("budget", 6, 6, 0.6)),
        (PEAKED, {}, Ending("budget", 6, 6, 0.2)),  # without patience, the last one
        (PEAKED, {"patience": 1}, Ending("patience", 3, 2, 0.5)),
        # What is best by less than the margin is best, and patience does not wait for it.
        (PEAKED, {"patience": 2, "margin": 0.01}, Ending("patience", 4, 4, 0.501)),
        (PEAKED, {"patience": 2, "margin": 0.0}, Ending("patience", 6, 4, 0.501)),
    ],
)
def test_a_run_ends_by_patience_or_budget_and_leaves_its_best_editor(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: Mapping[int, float],
    settings: Mapping[str, float],
    expected: Ending,
) -> None:
    path = tmp_path / "run" / "checkpoint.safetensors"
    best = bits_after(tmp_path, expected.best_step)
    scripted(monkeypatch, scores)
    run = new_training(path, evaluate_every=1, **settings)
    run.run(progress=False)
    assert run.ending == expected
    assert bits(run.editor) == best
    adam = {one["step"].item() for one in run.optimizer.state_dict()["state"].values()}
    assert adam == {expected.best_step}
    run.forget()
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("killed_in", range(1, 6))
@pytest.mark.parametrize("every", [1, 4])
def test_an_interrupted_run_ends_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: int, every: int
) -> None:
    scripted(monkeypatch, PEAKED)
    settings = {"evaluate_every": 1, "patience": 3, "checkpoint_every": every}
    straight = new_training(tmp_path / "straight" / "run.safetensors", **settings)
    straight.run(progress=False)
    path = tmp_path / "new" / "run.safetensors"
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, killed_in, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            new_training(path, **settings).run(progress=False)
    resumed = new_training(path, **settings, initial=99 if path.exists() else 0)
    resumed.run(progress=False)
    assert resumed.ending == straight.ending
    assert state(resumed) == state(straight)
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "run.best-4.safetensors",
        "run.safetensors",
    ]


def test_an_editor_that_training_makes_no_better_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_training(tmp_path / "first.safetensors", steps=2)
    first.run(progress=False)
    first.save_moments(tmp_path / "moments.safetensors")
    scripted(monkeypatch, {0: 0.9, **PEAKED})
    second = new_training(tmp_path / "second.safetensors", evaluate_every=1, patience=2)
    second.editor.load_state_dict(first.editor.state_dict())
    second.continue_from(tmp_path / "moments.safetensors")
    log = second.run(progress=False)
    assert [entry["step"] for entry in log] == [0, 1, 2]
    assert second.ending == Ending("patience", 2, 0, 0.9)
    assert state(second)[:2] == state(first)[:2]


@given(
    scores=st.lists(st.floats(0, 1), max_size=8),
    patience=st.integers(1, 4),
    margin=st.floats(0, 0.5),
)
def test_patience_ends_where_no_late_score_beats_the_early_ones(
    scores: list[float], patience: int, margin: float
) -> None:
    early, late = scores[: max(0, len(scores) - patience)], scores[-patience:]
    expected = bool(early) and not any(score > max(early) + margin for score in late)
    assert is_out_of_patience(scores, patience=patience, margin=margin) == expected


def test_validation_scores_every_set_of_the_facts_that_is_whole(tmp_path: Path) -> None:
    run = new_training(tmp_path / "run.safetensors", steps=1, validation=2 * EDITS + 1)
    (entry,) = run.run(progress=False)
    facts = run.validation[: 2 * EDITS]
    scores = evaluate(
        {EDITS: run.editor}, run.lm, facts, counts=[EDITS], sets=2, size=3, progress=False
    ).scores
    means = {name: float(scores[name].mean()) for name in ("es", "gs", "ls", "ls_consistency")}
    assert {name: entry[f"validation_{name}"] for name in means} == pytest.approx(means)
    score = harmonic_mean([means[name] for name in ("es", "gs", "ls_consistency")])
    assert entry["validation_score"] == pytest.approx(score)


# --- the order of facts ---


@given(n=st.integers(1, 30), data=st.data(), seed=st.integers(0, 1000))
def test_facts_of_an_epoch_are_disjoint(n: int, data: st.DataObject, seed: int) -> None:
    edits = data.draw(st.integers(1, n))
    facts: Any = list(range(n))  # stand-ins: the order is all that is asked for
    lm = tiny_lm("llama", dtype=torch.float32)
    run, same, other = (
        new_training(Path("never-written"), lm=lm, facts=facts, edits=edits, seed=s)
        for s in (seed, seed, seed + 1)
    )
    steps_per_epoch = n // edits
    epochs = [
        [run.step_facts(epoch * steps_per_epoch + i) for i in range(steps_per_epoch)]
        for epoch in range(3)
    ]
    for epoch in epochs:
        assert all(len(step) == edits for step in epoch)
        drawn = [fact for step in epoch for fact in step]
        assert len(set(drawn)) == len(drawn) == steps_per_epoch * edits
    # Any step, asked for alone and in any order, has its facts.
    assert [[same.step_facts(e * steps_per_epoch + i) for i in range(steps_per_epoch)]
            for e in (2, 0, 1)] == [epochs[2], epochs[0], epochs[1]]  # fmt: skip
    if steps_per_epoch * edits > 8:
        assert epochs[0] != epochs[1]
        assert [other.step_facts(i) for i in range(steps_per_epoch)] != epochs[0]


@pytest.mark.parametrize("edits", [0, -1, FACTS + 1])
def test_more_edits_than_facts_are_refused(tmp_path: Path, edits: int) -> None:
    with pytest.raises(InputError, match=rf"{edits} edits a step, and there are {FACTS}"):
        new_training(tmp_path / "checkpoint.safetensors", edits=edits)
    assert not list(tmp_path.iterdir())


# --- what is not finite ---

POISON = 299


def poisoned(tuple_name: str, *, seed: int = 0) -> tuple[LanguageModel, list[EncodedFact]]:
    """Return a model that answers NaN to one token, and facts of which one of step 3 has it."""
    lm = tiny_lm("llama", dtype=torch.float32)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[POISON] = math.nan
    facts = [
        EncodedFact(*(_without_poison(e) for e in (fact.edit, fact.equivalent, fact.unrelated)))
        for fact in random_facts("llama", FACTS)
    ]
    positions: Any = list(range(FACTS))
    order = new_training(Path("never-written"), lm=lm, facts=positions, seed=seed)
    index: Any = order.step_facts(2)[0]
    example: Example = getattr(facts[index], tuple_name)
    worse = replace(example, ids=(POISON, *example.ids[1:]))
    facts[index] = replace(facts[index], **{tuple_name: worse})
    return lm, facts


def _without_poison(example: Example) -> Example:
    return replace(example, ids=tuple(3 if token == POISON else token for token in example.ids))


@editors
@pytest.mark.parametrize("tuple_name", ["edit", "equivalent", "unrelated"])
def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, name: str, tuple_name: str
) -> None:
    lm, facts = poisoned(tuple_name)
    path = tmp_path / "checkpoint.safetensors"
    run = new_training(path, name=name, lm=lm, facts=facts, validation=0)
    with pytest.raises(NonFiniteError, match=rf"step 3 with {EDITS} edits: .*finite"):
        run.run(progress=False)
    assert steps_in(path) == 2  # of the step before, and all of it finite


@pytest.mark.parametrize("tuple_name", ["equivalent", "unrelated"])
def test_the_error_says_which_loss_it_was(tmp_path: Path, tuple_name: str) -> None:
    lm, facts = poisoned(tuple_name)
    run = new_training(tmp_path / "checkpoint.safetensors", lm=lm, facts=facts, validation=0)
    with pytest.raises(NonFiniteError) as caught:
        run.run(progress=False)
    guilty, innocent = ("L_gen", "L_loc") if tuple_name == "equivalent" else ("L_loc", "L_gen")
    assert f"{guilty} = nan" in str(caught.value)
    assert f"{innocent} = nan" not in str(caught.value)


@editors
def test_a_rate_that_explodes_is_named(tmp_path: Path, name: str) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors", name=name, learning_rate=3e38)
    with pytest.raises(NonFiniteError, match=r"step 1 .*finite.*; η = 3e\+38.*Lower learning_rate"):
        run.run(progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_gradient_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors")
    run.editor.log_lambdas.register_hook(lambda gradient: gradient * value)
    before = bits(run.editor.networks[0].blocks)
    with pytest.raises(NonFiniteError, match=r"not finite: log_lambdas;"):
        run.run(progress=False)
    assert bits(run.editor.networks[0].blocks) == before  # no step was taken


# --- clipping, the log, learning ---


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_gradients_are_clipped_to_their_norm(tmp_path: Path, clip: float) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors", steps=1, clip=clip)
    (entry,) = run.run(progress=False)
    norm = torch.cat([p.grad.flatten() for p in run.editor.parameters()]).norm().item()
    assert 1e-3 < entry["gradient_norm"] < 1e6  # the log has the norm before clipping
    assert norm == pytest.approx(min(clip, entry["gradient_norm"]), rel=1e-4)


def test_a_fixed_lambda_is_not_stepped_and_the_rest_is_clipped(tmp_path: Path) -> None:
    run = new_training(
        tmp_path / "checkpoint.safetensors", steps=2, clip=1e-3, hyper={"learn_lambda": False}
    )
    before = {name: p.clone() for name, p in run.editor.named_parameters()}
    run.run(progress=False)
    gradients = [p.grad.flatten() for p in run.editor.parameters() if p.grad is not None]
    assert torch.cat(gradients).norm().item() == pytest.approx(1e-3, rel=1e-4)
    for name, parameter in run.editor.named_parameters():
        is_fixed = name == "log_lambdas"
        assert torch.equal(parameter, before[name]) == is_fixed
        assert (parameter.grad is None) == is_fixed


def test_without_normalisation_no_statistics_are_kept(tmp_path: Path) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors", hyper={"normalise": False})
    run.run(progress=False)
    (network,) = run.editor.networks
    assert network.keys.count == network.gradients.count == 0


def test_the_log_has_losses_every_step_and_scores_now_and_then(tmp_path: Path) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors", steps=5, evaluate_every=2)
    log = run.run(progress=False)
    losses = {
        "step", "edits", "generalisation_loss", "locality_loss", "gradient_norm",
        "learning_rate", "seconds",
    }  # fmt: skip
    measures = ("es", "gs", "ls", "ls_consistency", "score")
    scores = {f"validation_{measure}" for measure in measures}
    for entry in log:
        evaluated = entry["step"] in (2, 4, 5)  # the last step always is
        assert set(entry) == losses | (scores if evaluated else set())
        assert all(math.isfinite(value) for value in entry.values())
        assert entry["edits"] == EDITS
        assert all(0 <= entry[name] <= 1 for name in scores if evaluated)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5]


def test_without_validation_facts_there_are_no_scores(tmp_path: Path) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors", steps=2, validation=0)
    assert not any("validation_es" in entry for entry in run.run(progress=False))


def test_validation_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    def final(number: int, **changes: int) -> dict[str, bytes]:
        path = tmp_path / f"{number}.safetensors"
        new_training(path, steps=4, **changes).run(progress=False)
        tensors, _ = read_safetensors(path)  # of the last step, whichever editor was the best
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}

    assert final(0, evaluate_every=1) == final(1, evaluate_every=100) == final(2, validation=0)


def test_the_statistics_have_seen_every_step_once(tmp_path: Path) -> None:
    run = new_training(tmp_path / "checkpoint.safetensors")
    run.run(progress=False)
    tokens = sum(len(fact.edit.positions) for step in range(STEPS) for fact in run.step_facts(step))
    (network,) = run.editor.networks
    assert network.keys.count == network.gradients.count == len(run.lm.layers) * tokens


@editors
def test_training_lowers_the_meta_loss(tmp_path: Path, name: str) -> None:
    run = new_training(
        tmp_path / "checkpoint.safetensors",
        name=name,
        facts=random_facts("llama", 4),  # one step an epoch: the loss is of the same facts
        steps=40,
        validation=0,
        learning_rate=1e-3,
        meta_learning_rate=1e-2,
        checkpoint_every=100,
    )
    log = run.run(progress=False)
    losses = [entry["generalisation_loss"] + entry["locality_loss"] for entry in log]
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]
