"""The works of which ours is compared with the released procedure, on random models and facts.

Both sides get equal models, equal editors and the same facts, in batches of the same size.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from baselines.memit_values import optimise_values
from benchmarks.released import Departures, Recipe, Released
from benchmarks.released_memit import ReleasedMemit
from benchmarks.shapes import (
    Shape,
    examples_of,
    language_model,
    random_contexts,
    random_facts,
    random_model,
    random_questions,
)
from benchmarks.timing import Comparison, Task, at_once, take_turns
from malmen.evaluation import edit_and_score
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.malmen import MALMEN
from malmen.recording.frozen import PrefixStore, record_prefix, replay
from malmen.settings import HyperSettings, MemitSettings, TrainingSettings
from malmen.training import MetaTraining

__all__ = [
    "FIRST",
    "STORED",
    "Sides",
    "editing",
    "meta_training",
    "new_editor",
    "released_step",
    "train",
    "values",
]

LEARNING_RATE = 1e-4
"""η of the editors: large enough for an edit to change every loss."""

FIRST, STORED = "first pass over the data included", "stored prefix"

TRAINING = TrainingSettings(checkpoint_every=2)
"""Of steps that are timed one at a time: none is behind a checkpoint."""


@dataclass(frozen=True)
class Sides:
    """A shape, and the models that each side works on.

    Attributes:
        shape: of both models.
        device: of both models.
        ours: the bare model that ours shares.
        plain: an equal one, whose weights the released procedure adds to and subtracts from.
    """

    shape: Shape
    device: torch.device
    ours: PreTrainedModel
    plain: PreTrainedModel

    @classmethod
    def of(cls, shape: Shape, device: torch.device) -> "Sides":
        """Make both models."""
        models = [random_model(shape, device=device) for _ in range(2)]
        return cls(shape, device, *models)

    def lm(self) -> LanguageModel:
        """Return our language model, without stored states."""
        return language_model(self.ours, self.shape)

    def replayed(self, facts: Sequence[EncodedFact]) -> LanguageModel:
        """Return our language model, on stored prefix states."""
        lm = self.lm()
        replay(lm, prefix_of(lm, facts))
        return lm

    @torch.no_grad()
    def released(self, folder: Path, **changes: Any) -> Released:
        """Return the released procedure, changed as ours is, with the parameters of our editor."""
        recipe = Recipe(
            rank=self.shape.rank,
            learning_rate=LEARNING_RATE,
            loc_coef=TRAINING.loc_coef,
            clip=TRAINING.clip,
            meta_learning_rate=TRAINING.meta_learning_rate,
            departures=Departures(facts_weigh_equally=True, exact_statistics=True),
            **changes,
        )
        plain = Released(self.plain, self.shape.entry.edited, recipe, folder)
        ours = dict(new_editor(self.lm(), self.shape, **changes).named_parameters())
        for name, parameter in plain.parameters().items():
            parameter.copy_(ours[name])
        return plain


def new_editor(lm: LanguageModel, shape: Shape, **changes: Any) -> MALMEN:
    """Return an untrained editor with changed settings; equal shapes have equal ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = HyperSettings(rank=shape.rank, learning_rate=LEARNING_RATE, **changes)
        return MALMEN(lm.shapes, settings).to(lm.device)


def prefix_of(lm: LanguageModel, facts: Sequence[EncodedFact]) -> PrefixStore:
    """Return all that is stored of facts before they are edited."""
    unrelated, edits = [fact.unrelated for fact in facts], [fact.edit for fact in facts]
    examples = examples_of(facts)
    return record_prefix(lm, examples, answered=unrelated, edits=edits, progress=False)


def meta_training(
    sides: Sides, *, edits: int, turns: int, targets: Mapping[str, float]
) -> list[Comparison]:
    """Compare a meta-training step, from recording keys to Adam's step.

    Args:
        sides: what is compared on.
        edits: facts of the step.
        turns: how often.
        targets: smallest ratio aimed at where the prefix states of the step's facts are recorded
            within the time (FIRST), and where they are there (STORED); either may be left out.

    Returns:
        A comparison for every target. Results differ in the meta loss, relatively.
    """
    facts = random_facts(sides.shape, edits)
    stored = sides.replayed(facts)
    ours: dict[str, Task] = {
        FIRST: partial(_first_step, sides, facts),
        STORED: partial(_step, sides, stored, facts),
    }
    what = f"meta-training step, {sides.shape.title}, {edits} edits"
    with tempfile.TemporaryDirectory() as folder:
        plainly: Task = partial(_released_step, sides, facts, Path(folder))
        tasks = {"plain": plainly, **{name: ours[name] for name in targets}}
        runs = take_turns(what, tasks, turns=turns)
    plain = runs["plain"]
    return [
        Comparison(
            work=f"{what}, {name}",
            ours=runs[name].seconds,
            plain=plain.seconds,
            target=target,
            difference=abs(runs[name].result / plain.result - 1),
        )
        for name, target in targets.items()
    ]


def editing(sides: Sides, *, edits: int, turns: int) -> Comparison:
    """Compare an edit and the scores after it, on stored prefix states.

    Results differ in ES, GS or LS, in facts that are scored differently.
    """
    facts = random_facts(sides.shape, edits)
    stored = sides.replayed(facts)
    with tempfile.TemporaryDirectory() as folder:
        tasks: dict[str, Task] = {
            "plain": partial(_released_edit, sides, facts, Path(folder)),
            "ours": partial(_edit, sides, stored, facts),
        }
        what = f"editing and evaluating {edits} facts, {sides.shape.title}, {STORED}"
        runs = take_turns(what, tasks, turns=turns)
    ours, plain = runs["ours"], runs["plain"]
    differs = (ours.result - plain.result).abs() > 1e-9
    return Comparison(
        work=what,
        ours=ours.seconds,
        plain=plain.seconds,
        target=5.0,
        difference=differs.double().mean().item(),
    )


def values(sides: Sides, *, facts: int, alone: int, block: int, turns: int) -> Comparison:
    """Compare MEMIT's values of facts side by side with those of one fact after another.

    One after another is proportional to the number of facts, so some of them are enough.
    Results differ in the values of those, relatively.

    Args:
        sides: what is compared on.
        facts: how many, side by side in groups of MEMIT's size.
        alone: how many of them are optimised one at a time.
        block: behind which the values are.
        turns: how often.
    """
    lm, settings = sides.lm(), MemitSettings()
    questions = sorted(random_questions(sides.shape, facts), key=lambda q: len(q.prompt))
    some = questions[:: facts // alone][:alone]
    contexts = random_contexts(sides.shape, settings.contexts, length=settings.context_length)

    layer = f"transformer.h.{block}.mlp.c_proj"
    released = ReleasedMemit(sides.ours, lm.tokenizer, [layer], settings)

    def one_by_one() -> Tensor:
        return torch.stack([released.value(fact, contexts) for fact in some])

    def in_groups() -> Tensor:
        size = settings.fact_batch
        groups = [questions[i : i + size] for i in range(0, facts, size)]
        return torch.cat(
            [optimise_values(lm, group, contexts, settings, block=block) for group in groups]
        )

    what = f"MEMIT's v* at {facts} facts, {sides.shape.title}"
    tasks = {"plain": at_once(one_by_one), "ours": at_once(in_groups)}
    runs = take_turns(what, tasks, turns=turns)
    ours = runs["ours"].result[[questions.index(fact) for fact in some]]
    plain = runs["plain"].result
    return Comparison(
        work=what,
        ours=runs["ours"].seconds,
        plain=[seconds * facts / alone for seconds in runs["plain"].seconds],
        target=10.0 if sides.device.type == "cuda" else 2.5,
        difference=((ours - plain).norm() / plain.norm()).item(),
    )


# --- one side's work: what is timed ---


def train(editor: MALMEN, lm: LanguageModel, facts: Sequence[EncodedFact]) -> float:
    """Do one meta-training step; return the meta loss."""
    training = MetaTraining(
        editor,
        lm,
        facts,
        [],
        edits=len(facts),
        steps=1,
        settings=TRAINING,
        seed=0,
        checkpoint=Path("unused"),
    )
    [entry] = training.run(progress=False)
    return float(entry["generalisation_loss"] + TRAINING.loc_coef * entry["locality_loss"])


def _step(sides: Sides, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Callable[[], float]:
    return partial(train, new_editor(lm, sides.shape), lm, facts)


def _first_step(sides: Sides, facts: Sequence[EncodedFact]) -> Callable[[], float]:
    lm = sides.lm()
    editor = new_editor(lm, sides.shape)

    def work() -> float:
        replay(lm, prefix_of(lm, facts))
        return train(editor, lm, facts)

    return work


def released_step(released: Released, facts: Sequence[EncodedFact]) -> float:
    """Do one meta-training step of the released procedure; return the meta loss."""
    return released.step(facts, released.optimizer()).total


def _released_step(sides: Sides, facts: Sequence[EncodedFact], folder: Path) -> Callable[[], float]:
    return partial(released_step, sides.released(folder), facts)


def _edit(sides: Sides, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Callable[[], Tensor]:
    editor = new_editor(lm, sides.shape).requires_grad_(False)

    def work() -> Tensor:
        scores = edit_and_score(editor, lm, facts, size=editor.settings.fact_batch)
        parts = (scores.edit, scores.equivalent, scores.unrelated)
        return torch.stack([part.accuracy() for part in parts])

    return work


def _released_edit(
    sides: Sides, facts: Sequence[EncodedFact], folder: Path
) -> Callable[[], Tensor]:
    released = sides.released(folder)
    return lambda: torch.stack(released.edit_and_score(facts)).cpu()
