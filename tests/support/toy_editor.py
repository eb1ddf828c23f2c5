"""Editors of somebody else: all that it takes to bring one, in one module outside the project."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from baselines.mend import MEND
from malmen.editor import Shifts
from malmen.experiment.cards import Card
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.settings import HyperSettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Hyper-parameters of a step."""

    step: float = 1e-3
    """How far the weights go down the gradient."""


class Step:
    """One step of gradient descent on all facts."""

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the step."""
        weights = lm.edited_weights(lm.zero_shifts())
        before = {layer: weight.detach().clone() for layer, weight in weights.items()}
        optimizer = torch.optim.SGD(weights.values(), lr=self.settings.step)
        for batch in lm.batches([fact.edit for fact in facts], size=4):
            with lm.swapped(weights):
                lm.objective.loss(lm.logits(batch), batch.targets).sum().backward()
        optimizer.step()
        return lm.shifts_between(before, weights)


@dataclass(frozen=True, kw_only=True)
class DampedSettings(HyperSettings):
    """Hyper-parameters of a damped network."""

    damping: float = 1.0
    """What a shift is divided by."""


class Damped(MEND):
    """MEND, its shifts made smaller."""

    settings: DampedSettings

    def learning_rate(self, layer: str) -> torch.Tensor:
        """Return η of a layer, damped."""
        return super().learning_rate(layer) / self.settings.damping


CARD = Card(
    name="step",
    title="One step",
    editor="toy_editor:Step",
    settings=StepSettings,
    later="Nobody, 2026",
    color="#117733",
    marker="*",
)
TRAINED = Card(
    name="damped",
    title="Damped",
    editor="toy_editor:Damped",
    settings=DampedSettings,
    training=TrainingSettings,
)
