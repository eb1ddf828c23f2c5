"""UltraEdit: MALMEN without meta-learning, normalised by the facts themselves."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from malmen.editor import LeastSquaresEditor, Shifts
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.normalizer import RunningNormalizer
from malmen.recording.capture import Record
from malmen.settings import TokenSettings

__all__ = ["UltraEdit"]


class UltraEdit(LeastSquaresEditor):
    """Training-free editing in the form of MALMEN (Gu et al., arXiv 2505.14679, 2025).

    Keys and value gradients are normalised over the facts edited, d_j = -η ‖û_j‖² ĝ_j, and the
    shift is the same normal equation with λ = 1. It is later than the paper.

    Args:
        layers: (d, d') of every edited layer by name; layers of one shape share a normaliser.
        settings: hyper-parameters.
    """

    def __init__(self, layers: Mapping[str, tuple[int, int]], settings: TokenSettings) -> None:
        self.layers = layers
        self.settings = settings
        self.normalizers: dict[tuple[int, int], tuple[RunningNormalizer, RunningNormalizer]] = {}

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the shifts that write all ``facts`` at once; no earlier call has any influence."""
        record = self.record(lm, facts)
        self._observe(record, lm.device)
        return self.shifts(record)

    def outputs(self, layer: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return the value differences d_j, shape (n, d')."""
        of_keys, of_gradients = self.normalizers[self.layers[layer]]
        squared_norms = of_keys(keys).square().sum(dim=-1, keepdim=True)
        return -self.settings.learning_rate * squared_norms * of_gradients(gradients)

    def lam(self, layer: str) -> Tensor:
        """Return λ = 1."""
        return torch.ones((), device=self.normalizers[self.layers[layer]][0].mean.device)

    def _observe(self, record: Record, device: torch.device) -> None:
        self.normalizers = {
            shape: (RunningNormalizer(shape[0]).to(device), RunningNormalizer(shape[1]).to(device))
            for shape in set(self.layers.values())
        }
        for layer, tokens in record.items():
            of_keys, of_gradients = self.normalizers[self.layers[layer]]
            for keys, gradients in self.token_batches(tokens):
                of_keys.update(keys)
                of_gradients.update(gradients)
