"""MEND: MALMEN's hyper-network, its outputs summed instead of reconciled."""

import torch
from torch import Tensor

from malmen.editor import HyperNetworkEditor

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
        outputs = outputs.to(self.device)
        pseudo_keys, pseudo_gradients = outputs.tensor_split([keys.shape[1]], dim=-1)
        return -self.learning_rate(layer) * pseudo_gradients.T @ pseudo_keys
