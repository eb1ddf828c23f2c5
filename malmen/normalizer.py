"""Running normalisation of what enters the hyper-network."""

import torch
from torch import Tensor, nn

__all__ = ["RunningNormalizer"]

RELATIVE_FLOOR = 1e-2
"""Smallest standard deviation of a feature, relative to the root mean square over features."""


class RunningNormalizer(nn.Module):
    """Centre and scale features by the mean and standard deviation of all rows seen.

    Statistics are merged batch by batch with the pairwise update of Chan, Golub and LeVeque
    (1983), in float64, so that they do not depend on how rows were split into batches. They move
    only in :meth:`update`; a forward pass never changes them.

    A feature that has hardly varied would normalise to huge values when it later does: its
    standard deviation is held above ``RELATIVE_FLOOR`` of the features' root mean square.

    Args:
        size: number of features.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Take in rows of shape (n, size)."""
        if rows.shape[0] == 0:
            return
        rows = rows.double()
        batch_mean = rows.mean(0)
        n, total = rows.shape[0], self.count + rows.shape[0]
        delta = batch_mean - self.mean
        self.squares += (rows - batch_mean).square().sum(0) + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count += n

    def std(self) -> Tensor:
        """Return the floored standard deviation of every feature, shape (size,), float64."""
        variance = self.squares / self.count.clamp(min=1)
        typical = variance.mean().sqrt()
        if typical == 0:  # one row, or constant rows: nothing to scale by
            return torch.ones_like(variance)
        return variance.sqrt().clamp(min=(RELATIVE_FLOOR * typical).item())

    def forward(self, rows: Tensor) -> Tensor:
        """Return (rows - mean) / std in the dtype of ``rows``."""
        std = self.std().clamp(min=torch.finfo(rows.dtype).tiny)  # saturated losses: gradients ~ 0
        return (rows - self.mean.to(rows.dtype)) / std.to(rows.dtype)
