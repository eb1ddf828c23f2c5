"""Oracle: how much is there to be had of the edited layers, if what is evaluated may be seen."""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from malmen.editor import Shifts
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.settings import OracleSettings
from malmen.training import is_out_of_patience

__all__ = ["Oracle"]

MARGIN = math.log(1.01)
"""Smallest improvement that patience counts, of the logarithm of the loss: one percent."""

TINY = 1e-30  # a loss of zero has no logarithm


class Oracle:
    """Find the shift by descending the meta loss of the very facts that are evaluated.

    It is no editor: it sees the equivalent and the unrelated tuples, on which editors are scored.
    Where an editor falls short of it, the layers had room, and the editor did not find it.

    Args:
        settings: hyper-parameters.
        seed: of the order of facts.
    """

    def __init__(self, settings: OracleSettings, *, seed: int) -> None:
        self.settings = settings
        self.seed = seed

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the shift with the smallest loss, a mean over an epoch, that was met."""
        weights = lm.edited_weights(lm.zero_shifts())
        before = {layer: weight.detach().clone() for layer, weight in weights.items()}
        optimizer = torch.optim.Adam(weights.values(), lr=self.settings.learning_rate)
        order, size = random.Random(self.seed), self.settings.fact_batch
        shuffled, losses, best = list(facts), list[float](), lm.zero_shifts()
        while len(losses) < self.settings.epochs and not self._is_done(losses):
            order.shuffle(shuffled)
            loss = 0.0
            for start in range(0, len(facts), size):
                optimizer.zero_grad()
                loss += self._descend(lm, shuffled[start : start + size], weights)
                optimizer.step()
            if loss < min(losses, default=math.inf):
                best = lm.shifts_between(before, weights)
            losses.append(loss)
        return best

    def _is_done(self, losses: Sequence[float]) -> bool:
        heights = [-math.log(max(loss, TINY)) for loss in losses]
        return is_out_of_patience(heights, patience=self.settings.patience, margin=MARGIN)

    def _descend(
        self,
        lm: LanguageModel,
        facts: Sequence[EncodedFact],
        weights: dict[str, torch.nn.Parameter],
    ) -> float:
        """Back-propagate the loss of some facts, a mean, to the weights; return its sum."""
        total = 0.0
        for kind, coefficient in (
            ("edit", 1.0),
            ("equivalent", 1.0),
            ("unrelated", self.settings.loc_coef),
        ):
            examples = [getattr(fact, kind) for fact in facts]
            for batch in lm.batches(examples, size=len(examples)):
                unedited = lm.unedited_logits(batch) if kind == "unrelated" else None
                with lm.swapped(weights):
                    logits = lm.logits(batch)
                if unedited is None:
                    losses = lm.objective.loss(logits, batch.targets)
                else:
                    losses = lm.objective.divergence(logits, unedited)
                loss: Tensor = coefficient * (losses * batch.weights.to(losses.dtype)).sum()
                (loss / len(facts)).backward()
                total += loss.item()
        return total
