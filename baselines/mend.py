"""MEND: MALMEN's hyper-network, its outputs summed instead of reconciled."""

from functools import reduce

import torch
from torch import Tensor

from malmen.editor import Batches, HyperNetworkEditor, ShiftOfCross

__all__ = ["MEND"]


class MEND(HyperNetworkEditor):
    """Model editor networks with gradient decomposition (Mitchell et al., ICLR 2022).

    Every token contributes -η ṽ_j ũ_jᵀ to the shift. Nothing reconciles rows in conflict, so
    contributions cancel and the shift grows with the number of facts.
    """

    def outputs(self, layer: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return pseudo keys and pseudo value gradients side by side, shape (n, d + d')."""
        return torch.cat(self.pseudo(layer, keys, gradients), dim=-1)

    def combine(self, layer: str, keys: Tensor, outputs: Tensor) -> Tensor:
        """Return -η Σ_j ṽ_j ũ_jᵀ, shape (d', d)."""
        return -self.learning_rate(layer) * self.cross(keys, outputs)

    def cross(self, keys: Tensor, outputs: Tensor) -> Tensor:
        """Return Σ_j ṽ_j ũ_jᵀ, shape (d', d)."""
        pseudo_keys, pseudo_gradients = outputs.tensor_split([keys.shape[1]], dim=-1)
        return pseudo_gradients.T @ pseudo_keys

    def combine_batches(self, layer: str, batches: Batches) -> ShiftOfCross:
        """Return the shift from the sum over all tokens that it is made of."""
        cross = reduce(Tensor.add_, (self.cross(*batch) for batch in batches)).requires_grad_()
        return ShiftOfCross(-self.learning_rate(layer) * cross, cross, self.cross)
