"""MALMEN: the hyper-network proposes value differences, least squares reconciles them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from malmen.editor import HyperNetworkEditor, LeastSquaresEditor
from malmen.settings import HyperSettings

__all__ = ["MALMEN"]


class MALMEN(HyperNetworkEditor, LeastSquaresEditor):
    """Massive editing by meta-learning (Tan, Zhang and Fu, ICLR 2024).

    For every token the hyper-network proposes a value difference d_j = -η (ũ_jᵀ u_j) ṽ_j; the
    shift is the least-squares answer to all of them, regularised by a learned λ_ℓ that starts
    at 1.
    """

    def __init__(self, layers: Mapping[str, tuple[int, int]], settings: HyperSettings) -> None:
        super().__init__(layers, settings)
        self.log_lambdas = nn.Parameter(
            torch.zeros(len(layers)), requires_grad=settings.learn_lambda
        )

    def outputs(self, layer: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return the value differences d_j, shape (n, d')."""
        pseudo_keys, pseudo_gradients = self.pseudo(layer, keys, gradients)
        inner = (pseudo_keys * keys).sum(dim=-1, keepdim=True)
        return -self.learning_rate(layer) * inner * pseudo_gradients

    def lam(self, layer: str) -> Tensor:
        """Return λ of a layer, a scalar."""
        return self.log_lambdas[self.layer_index[layer]].exp()
