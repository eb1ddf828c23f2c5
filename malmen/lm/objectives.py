"""Losses, divergences and predictions of the two tasks of language models."""

from torch import Tensor
from torch.nn import functional as F

__all__ = ["BinaryVerdict", "Objective", "TokenPrediction"]


class TokenPrediction:
    """Next-token prediction: logits (answers, vocabulary), targets token ids."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -log p(target), shape (answers,)."""
        return F.cross_entropy(logits, targets, reduction="none")

    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Return KL over the vocabulary, shape (answers,)."""
        terms = F.kl_div(
            logits.log_softmax(-1), reference.log_softmax(-1), reduction="none", log_target=True
        )
        return terms.sum(-1)

    def predict(self, logits: Tensor) -> Tensor:
        """Return the most likely token, shape (answers,)."""
        return logits.argmax(-1)


class BinaryVerdict:
    """Fact checking: one logit a claim, logits (answers, 1), targets 1 for SUPPORTS, else 0."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross-entropy, shape (answers,)."""
        logits = logits.squeeze(-1)
        return F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        )

    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Return the Bernoulli KL, shape (answers,).

        From log-sigmoids: logarithms of clamped probabilities lose the gradient of large logits.
        """
        edited, before = logits.squeeze(-1), reference.squeeze(-1)
        supports = before.sigmoid() * (F.logsigmoid(before) - F.logsigmoid(edited))
        refutes = (-before).sigmoid() * (F.logsigmoid(-before) - F.logsigmoid(-edited))
        return supports + refutes

    def predict(self, logits: Tensor) -> Tensor:
        """Return 1 where the logit is positive, shape (answers,)."""
        return (logits.squeeze(-1) > 0).long()


Objective = TokenPrediction | BinaryVerdict
"""What an answer's logits are trained towards and scored by; all results are per answer."""
