"""What a language model, edited or not, predicts of answers under teacher forcing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from malmen.lm.batches import Example
from malmen.lm.language_model import LanguageModel

__all__ = ["Predictions", "predict"]


@dataclass(frozen=True)
class Predictions:
    """Predictions for a list of examples, answers of one fact after another.

    Attributes:
        tokens: (answers,) predicted tokens.
        targets: (answers,) expected tokens.
        facts: (answers,) index of the example each answer belongs to, ascending.
    """

    tokens: Tensor
    targets: Tensor
    facts: Tensor

    def accuracy(self, truth: Tensor | None = None) -> Tensor:
        """Return each fact's share of tokens that equal ``truth`` (its targets by default)."""
        right = (self.tokens == (self.targets if truth is None else truth)).double()
        n = int(self.facts[-1]) + 1
        total = torch.zeros(n, dtype=torch.float64).index_add_(0, self.facts, right)
        return total / torch.bincount(self.facts, minlength=n)

    def of(self, examples: range) -> "Predictions":
        """Return those for consecutive examples, which are counted from zero again."""
        inside = (self.facts >= examples.start) & (self.facts < examples.stop)
        facts = self.facts[inside] - examples.start
        return Predictions(self.tokens[inside], self.targets[inside], facts)


@torch.no_grad()
def predict(
    lm: LanguageModel,
    examples: Sequence[Example],
    *,
    size: int,
    weights: Mapping[str, nn.Parameter] | None = None,
) -> Predictions:
    """Predict every answer under teacher forcing, with edited ``weights`` if given."""
    tokens, targets, facts = [], [], []
    logits = lm.logits if weights else lm.unedited_logits
    with lm.swapped(weights or {}):
        for batch in lm.batches(examples, size=size):
            tokens.append(lm.objective.predict(logits(batch)).cpu())
            targets.append(batch.targets.cpu())
            facts.append(batch.facts.cpu())
    order = torch.cat(facts).argsort(stable=True)
    return Predictions(*(torch.cat(part)[order] for part in (tokens, targets, facts)))
