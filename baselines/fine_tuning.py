"""FT: gradient descent on the edited layers' own weights."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from malmen.editor import Shifts
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.settings import FineTuningSettings

__all__ = ["FineTuning"]


class FineTuning:
    """Fine-tune the edited layers on the edit tuples; the shift is what has changed.

    Args:
        settings: hyper-parameters.
        seed: of the order of batches.
    """

    def __init__(self, settings: FineTuningSettings, *, seed: int) -> None:
        self.settings = settings
        self.seed = seed

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the shifts that fine-tuning on the edit tuples of ``facts`` has made."""
        weights = lm.edited_weights(lm.zero_shifts())
        before = {layer: weight.detach().clone() for layer, weight in weights.items()}
        optimizer = torch.optim.AdamW(
            weights.values(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )
        batches = list(lm.batches([fact.edit for fact in facts], size=self.settings.fact_batch))
        order = random.Random(self.seed)
        for _ in range(self.settings.epochs):
            order.shuffle(batches)
            for batch in batches:
                optimizer.zero_grad()
                with lm.swapped(weights):
                    losses = lm.objective.loss(lm.logits(batch), batch.targets)
                loss: Tensor = (losses * batch.weights.to(losses.dtype)).sum() / len(batch)
                loss.backward()
                optimizer.step()
        return lm.shifts_between(before, weights)
