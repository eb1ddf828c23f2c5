"""The hyper-network g_θ that MALMEN and MEND share."""

import torch
from torch import Tensor, nn

from malmen.normalizer import RunningNormalizer

__all__ = ["HyperNetwork"]


class HyperNetwork(nn.Module):
    """Map a key and a value gradient to a pseudo key and a pseudo value gradient.

    One network serves every layer whose weight has the same shape; layers differ by the scale
    and offset of each block. Input is the concatenation (u, ∇v), normalised by running
    statistics. At initialisation the network returns its normalised input.

    Args:
        key_size: d.
        value_size: d'.
        n_layers: how many layers share the network.
        rank: of each block's linear map.
        n_blocks: number of residual blocks.
    """

    def __init__(
        self, *, key_size: int, value_size: int, n_layers: int, rank: int, n_blocks: int
    ) -> None:
        super().__init__()
        self.key_size = key_size
        self.keys = RunningNormalizer(key_size)
        self.gradients = RunningNormalizer(value_size)
        size = key_size + value_size
        self.blocks = nn.ModuleList(_Block(size, rank, n_layers) for _ in range(n_blocks))

    def observe(self, keys: Tensor, gradients: Tensor) -> None:
        """Update the running statistics with keys (n, d) and value gradients (n, d')."""
        self.keys.update(keys)
        self.gradients.update(gradients)

    def forward(self, keys: Tensor, gradients: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return pseudo keys (n, d) and pseudo value gradients (n, d') of one layer's tokens."""
        z = torch.cat([self.keys(keys), self.gradients(gradients)], dim=-1)
        for block in self.blocks:
            z = block(z, layer)
        return z[:, : self.key_size], z[:, self.key_size :]


class _Block(nn.Module):
    """z ← z + s_ℓ ⊙ relu(zAB + b) + t_ℓ."""

    def __init__(self, size: int, rank: int, n_layers: int) -> None:
        super().__init__()
        # N(0, 1), as released: B starts at zero and Adam moves each of its entries by the meta
        # learning rate whatever its gradient, so a block's effect grows with the norm of A.
        self.A = nn.Parameter(torch.randn(size, rank))
        self.B = nn.Parameter(torch.zeros(rank, size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.scale = nn.Parameter(torch.ones(n_layers, size))
        self.offset = nn.Parameter(torch.zeros(n_layers, size))

    def forward(self, z: Tensor, layer: int) -> Tensor:
        # B and b start at zero, where relu passes no gradient at all and clamp does.
        hidden = (z @ self.A @ self.B + self.bias).clamp(min=0)
        return z + self.scale[layer] * hidden + self.offset[layer]
