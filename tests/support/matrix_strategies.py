"""Hypothesis strategies for normal equations, and the error that rounding may make in them.

Matrices are constructed from drawn properties (shape, rank, singular values, copies, λ, seed), so
that nothing is filtered and a failing example prints as these few numbers.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from hypothesis import example
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Keys U (d, n), value differences D (d', n), λ and a gradient ∇S (d', d), in float64."""

    key_size: int
    value_size: int
    copies: tuple[int, ...]  # of each distinct key
    rank: int  # of the distinct keys; at most min(key_size, len(copies))
    scale: float  # their largest singular value
    spread: float  # its ratio to the smallest one that is not zero
    zeros: int  # further keys that are zero
    lam: float
    seed: int

    def _normal(self, stream: int, *shape: int) -> Tensor:
        """Draw from the stream of this number: tensors do not depend on who asks first."""
        generator = torch.Generator().manual_seed(8 * self.seed + stream)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    @cached_property
    def distinct(self) -> Tensor:
        """Ũ, shape (d, k); a last column of zeros stands for the zero keys, if there are any."""
        left = torch.linalg.qr(self._normal(0, self.key_size, self.rank)).Q
        right = torch.linalg.qr(self._normal(1, len(self.copies), self.rank)).Q
        values = self.scale * self.spread ** -torch.linspace(0, 1, self.rank, dtype=torch.float64)
        return torch.nn.functional.pad((left * values) @ right.T, (0, int(self.zeros > 0)))

    @cached_property
    def assignment(self) -> Tensor:
        """The distinct key of each column, shape (n,), shuffled."""
        copies = [*self.copies, self.zeros] if self.zeros else [*self.copies]
        ordered = [key for key, count in enumerate(copies) for _ in range(count)]
        shuffled = self._normal(2, len(ordered)).argsort()
        return torch.tensor(ordered, dtype=torch.long)[shuffled]

    @cached_property
    def keys(self) -> Tensor:
        return self.distinct[:, self.assignment]

    @cached_property
    def differences(self) -> Tensor:
        return self._normal(3, self.value_size, self.columns)

    @cached_property
    def grad_shift(self) -> Tensor:
        return self._normal(4, self.value_size, self.key_size)

    @property
    def columns(self) -> int:
        return sum(self.copies) + self.zeros

    @property
    def system(self) -> Tensor:
        """UUᵀ + λI."""
        return self.keys @ self.keys.T + self.lam * torch.eye(self.key_size, dtype=torch.float64)

    @cached_property
    def norm(self) -> float:
        """The largest singular value of U."""
        return max(torch.linalg.svdvals(self.keys).tolist(), default=0.0)

    @property
    def condition(self) -> float:
        """κ of UUᵀ + λI or of UᵀU + λI, whichever is singular without λ: both are solved."""
        return (self.norm**2 + self.lam) / self.lam

    @property
    def gain(self) -> float:
        """A bound of ‖Uᵀ(UUᵀ + λI)⁻¹‖, that is of s / (s² + λ) over singular values s."""
        return min(self.norm / self.lam, 0.5 * self.lam**-0.5)

    def rounding(self, dtype: torch.dtype = torch.float64) -> float:
        """The relative error of a backward-stable solve, 2 (d + n) ε κ.

        A Cholesky factor is exact for a system that is off by ‖E‖ ≤ c ε ‖A‖. To first order this
        leaves, in the primal and in the dual form alike, an error of the shift below
        c ε κ · gain · ‖D‖, of ∇D below c ε κ · gain · ‖∇S‖ and of ∇λ below
        c ε κ · gain · ‖D‖ ‖∇S‖ / λ.
        """
        return 2 * (self.key_size + self.columns) * torch.finfo(dtype).eps * self.condition

    def shift_error(self, dtype: torch.dtype = torch.float64) -> float:
        return self.rounding(dtype) * self.gain * self.differences.norm().item()

    def differences_error(self, dtype: torch.dtype = torch.float64) -> float:
        return self.rounding(dtype) * self.gain * self.grad_shift.norm().item()

    def lam_error(self, dtype: torch.dtype = torch.float64) -> float:
        return self.shift_error(dtype) * self.grad_shift.norm().item() / self.lam

    def with_condition(self, condition: float) -> "Problem":
        """Return this problem with the λ that gives κ = condition, if any does."""
        return replace(self, lam=self.norm**2 / (condition - 1) or 1.0)


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    """Draw a number between 10^low and 10^high, evenly in its logarithm."""
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


lambdas = powers(-4, 4)
scales = powers(-2, 2)
seeds = st.integers(0, 2**31)


@st.composite
def problems(draw, *, lam=lambdas, scale=scales):
    """Draw n < d, n = d, n > d, n = 1 and n = 0; every rank; duplicate and zero keys."""
    key_size = draw(st.integers(1, 8))
    copies = draw(st.lists(st.integers(1, 3), max_size=8))
    rank_at_most = min(key_size, len(copies))
    return Problem(
        key_size=key_size,
        value_size=draw(st.integers(1, 4)),
        copies=tuple(copies),
        rank=draw(st.just(rank_at_most) | st.integers(0, rank_at_most)),
        scale=draw(scale),
        spread=draw(powers(0, 3)),
        zeros=draw(st.integers(0, 2)),
        lam=draw(lam),
        seed=draw(seeds),
    )


@st.composite
def independent_keys(draw):
    """Draw 1 ≤ n ≤ d linearly independent keys, and a λ small against all of them."""
    columns = draw(st.integers(1, 6))
    scale, spread = draw(scales), draw(powers(0, 2))
    return Problem(
        key_size=columns + draw(st.integers(0, 4)),
        value_size=draw(st.integers(1, 4)),
        copies=(1,) * columns,
        rank=columns,
        scale=scale,
        spread=spread,
        zeros=0,
        lam=(scale / spread) ** 2 * draw(powers(-6, -2)),
        seed=draw(seeds),
    )


def split(matrix: Tensor, places: list[float]) -> list[Tensor]:
    """Split columns at these fractions of their number: uneven and perhaps empty chunks."""
    ends = sorted(round(place * matrix.shape[1]) for place in places)
    return list(matrix.tensor_split(ends, dim=1))


places = st.lists(st.floats(0, 1), max_size=4)

# What is tried whatever else is drawn: copies of each distinct key, their rank, zero keys; d = 4.
SHAPES = {
    "n < d": ((1, 1), 2, 0),
    "n = d": ((1,) * 4, 4, 0),
    "n > d": ((1,) * 9, 4, 0),
    "n = 1": ((1,), 1, 0),
    "n = 0": ((), 0, 0),
    "rank-deficient": ((1,) * 6, 2, 0),
    "duplicates": ((4, 1, 5), 3, 0),
    "zero keys": ((1, 1), 2, 2),
    "nothing but zero keys": ((), 0, 3),
}


def of_shape(name: str, *, lam: float = 1e-4) -> Problem:
    """Return the problem of this name in SHAPES."""
    copies, rank, zeros = SHAPES[name]
    return Problem(
        key_size=4,
        value_size=3,
        copies=copies,
        rank=rank,
        scale=1.0,
        spread=10.0,
        zeros=zeros,
        lam=lam,
        seed=0,
    )


def every_shape(**others):
    """Add each of SHAPES to a property's examples, with these values of its other arguments."""

    def decorate(test):
        for name in SHAPES:
            test = example(problem=of_shape(name), **others)(test)
        return test

    return decorate
