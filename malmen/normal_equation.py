r"""The normal equation of MALMEN, its gradients, and nothing else.

Given keys :math:`U = [u_1 \dots u_n] \in R^{d \times n}` and value differences
:math:`D = [d_1 \dots d_n] \in R^{d' \times n}`, the parameter shift is the regularised
least-squares answer to "add :math:`d_j` to the layer's output at key :math:`u_j`":

.. math:: S = \arg\min_S \|SU - D\|_F^2 + \lambda \|S\|_F^2 = D U^T (U U^T + \lambda I)^{-1}.

Three forms of it agree:

* **primal** factors the d x d matrix :math:`U U^T + \lambda I`;
* **dual** factors the n x n matrix :math:`U^T U + \lambda I` (push-through identity);
* **streamed** is the primal form with :math:`U U^T` and :math:`D U^T` accumulated over chunks of
  columns, so that the keys are never held at once in the precision of the solve.

Every form factors once and serves the forward pass and both gradients: Theorem 1
(:math:`\nabla_D`) and Theorem 2 (:math:`\nabla_\lambda`) of Tan, Zhang and Fu (ICLR 2024). Two
solutions have a backward pass of their own: that of the columns, by the dual form, and that of the
sums over columns, which the primal form takes over one chunk and the streamed form over many.

What is penalised need not be :math:`\|S\|_F^2`. A *penalty* gives the keys coordinates in which it
is: :class:`Ridge` those they have, :class:`Metric` such that a common direction costs more,
:class:`Subspace` such that the shift vanishes outside of a sub-space.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = [
    "RIDGE",
    "Metric",
    "NormalEquationError",
    "Penalty",
    "Ridge",
    "Subspace",
    "Sums",
    "cheaper_form",
    "parameter_shift",
    "shift_of_sums",
]

Form = Literal["auto", "primal", "dual", "streamed"]

# Seconds per floating-point operation relative to a matrix product, float64 on two x86 cores:
# medians over d = 576 ... 3072 and n = 32 ... 4096 (`python benchmarks/normal_equation.py`).
CHOLESKY_COST = 2.0
TRIANGULAR_COST = 1.5

STREAM_BYTES = 2**30
"""Above this size of the keys in the precision of the solve, the primal form streams them."""

CHUNK = 4096
"""Columns a streamed form converts to the precision of the solve at a time."""


class NormalEquationError(ArithmeticError):
    """The normal equation has no usable answer: non-finite input, λ ≤ 0 or a failed factor."""


@dataclass(frozen=True)
class Ridge:
    r"""The penalty :math:`\lambda \|S\|_F^2`: every direction of the keys costs the same."""

    def encode(self, keys: Tensor) -> Tensor:
        """Return keys (d, n) in the coordinates in which the penalty is that of the norm."""
        return keys

    def decode(self, shift: Tensor) -> Tensor:
        """Return the shift (d', d) of keys from its form (d', k) in those coordinates."""
        return shift


@dataclass(frozen=True)
class Metric:
    r"""The penalty :math:`\lambda \operatorname{tr}(S C S^T)` with :math:`C = L L^T`.

    C is the mean of :math:`k k^T` over keys k that are to be left alone, so that the shift
    :math:`S = D U^T (U U^T + \lambda C)^{-1}` weighs what it does to a key by how common the key is
    (MEMIT: Meng et al., ICLR 2023). :math:`S L` is the plain shift of the keys :math:`L^{-1} U`.

    Attributes:
        factor: L, lower triangular, shape (d, d), in whatever memory and precision.
    """

    factor: Tensor

    def encode(self, keys: Tensor) -> Tensor:
        """Return L⁻¹U, shape (d, n)."""
        _check_features(keys, self.factor, "factor")
        return torch.linalg.solve_triangular(self.factor.to(keys), keys, upper=False)

    def decode(self, shift: Tensor) -> Tensor:
        """Return S from SL, shape (d', d)."""
        lower = self.factor.to(shift)
        return torch.linalg.solve_triangular(lower, shift, upper=False, left=False)


@dataclass(frozen=True)
class Subspace:
    r"""The penalty :math:`\lambda \|S\|_F^2` within a sub-space, beyond all bounds outside of it.

    Keys orthogonal to the sub-space keep their values to the last bit of the solve (AlphaEdit: Fang
    et al., ICLR 2025). With an orthonormal basis B, S is :math:`\tilde S B^T`, and
    :math:`\tilde S` the plain shift of the keys :math:`B^T U`.

    Attributes:
        basis: B, shape (d, k), its columns orthonormal.
    """

    basis: Tensor

    def encode(self, keys: Tensor) -> Tensor:
        """Return BᵀU, shape (k, n)."""
        _check_features(keys, self.basis, "basis")
        return self.basis.to(keys).T @ keys

    def decode(self, shift: Tensor) -> Tensor:
        """Return S from SB, shape (d', d)."""
        return shift @ self.basis.to(shift).T


Penalty = Ridge | Metric | Subspace
"""What a shift is penalised by; λ is its weight."""

RIDGE = Ridge()


def parameter_shift(
    keys: Tensor | Sequence[Tensor],
    differences: Tensor,
    lam: Tensor,
    *,
    penalty: Penalty = RIDGE,
    form: Form = "auto",
    precision: torch.dtype = torch.float64,
) -> Tensor:
    r"""Solve the normal equation, differentiably in the value differences and λ.

    The backward pass is Theorem 1, :math:`\nabla_D = \nabla_S (UU^T + \lambda I)^{-1} U`, and
    Theorem 2, :math:`\nabla_\lambda = -\langle \nabla_S, S (UU^T + \lambda I)^{-1} \rangle`.
    The keys are constants of a meta-training step and receive no gradient.

    Args:
        keys: U, shape (d, n); for the streamed form also a sequence of column chunks.
        differences: D, shape (d', n).
        lam: the regularisation λ > 0, a scalar tensor (pass ``log_lambda.exp()`` to learn log λ).
        penalty: what λ is the weight of.
        form: primal, dual or streamed; auto takes the cheaper by measured cost.
        precision: of everything from the Gram matrix to the shift. Single precision loses the
            answer for small λ or repeated keys (relative error grows with the condition number).

    Returns:
        S, shape (d', d), in the dtype of ``differences``.

    Raises:
        ValueError: shapes or dtypes disagree, or keys require a gradient.
        NormalEquationError: non-finite input, λ ≤ 0, or a factorisation that fails.

    Example:
        >>> U, D = torch.eye(2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
        >>> parameter_shift(U, D, torch.tensor(1.0, dtype=torch.float64))
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    chunks = (keys,) if isinstance(keys, Tensor) else tuple(keys)
    _check(chunks, differences, lam)
    if penalty is not RIDGE:
        encoded = [penalty.encode(chunk.to(precision)) for chunk in chunks]
        plain = parameter_shift(
            encoded, differences.to(precision), lam, form=form, precision=precision
        )
        return penalty.decode(plain).to(differences.dtype)
    d, n = chunks[0].shape[0], differences.shape[1]
    if form == "auto":
        form = cheaper_form(d=d, n=n, value_size=differences.shape[0], precision=precision)
    if form == "dual":
        shift: Tensor = _DualShift.apply(differences, lam, torch.cat(chunks, dim=1), precision)
        return shift
    if form == "primal":
        chunks = (torch.cat(chunks, dim=1),)
    elif form == "streamed":
        chunks = tuple(piece for chunk in chunks for piece in chunk.split(CHUNK, dim=1))
    else:
        raise ValueError(f"unknown form {form!r}; choose auto, primal, dual or streamed")
    widths = [chunk.shape[1] for chunk in chunks]
    grams = (_cross(chunk, chunk, precision) for chunk in chunks)
    crosses = (
        checkpoint(_cross, part, chunk, precision, use_reentrant=False, preserve_rng_state=False)
        for part, chunk in zip(differences.split(widths, dim=1), chunks, strict=True)
    )  # checkpoints, so that no chunk is kept in the precision of the solve
    return shift_of_sums(reduce(add, grams), reduce(add, crosses), lam).to(differences.dtype)


def shift_of_sums(gram: Tensor, cross: Tensor, lam: Tensor) -> Tensor:
    r"""Solve the primal form from its sums over columns, differentiably in :math:`DU^T` and λ.

    With :math:`Z = \nabla_S (UU^T + \lambda I)^{-1}`, the gradient with respect to :math:`DU^T`,
    Theorem 1 is :math:`\nabla_D = ZU`: nothing but Z is needed to give every column, in batches
    of any size, its gradient.

    Args:
        gram: :math:`UU^T`, shape (d, d), in the precision of the solve.
        cross: :math:`DU^T`, shape (d', d), in the same precision.
        lam: λ > 0, a scalar tensor.

    Returns:
        S, shape (d', d), in that precision.

    Raises:
        NormalEquationError: non-finite sums, λ ≤ 0, or a factorisation that fails.
    """
    shift: Tensor = _ShiftOfSums.apply(cross, lam, gram)
    return shift


def cheaper_form(
    *, d: int, n: int, value_size: int, precision: torch.dtype = torch.float64
) -> Literal["primal", "dual", "streamed"]:
    """Choose the form of least predicted time for one forward and one backward pass.

    Operations are counted and weighted by measured costs (see the constants of this module).

    Args:
        d: key size.
        n: number of columns.
        value_size: d'.
        precision: of the solve; it decides when the keys are too large to be copied at once.

    Returns:
        The form's name.
    """

    def cost(order: int) -> float:  # of a system of `order` unknowns, beyond what both forms share
        gram = 2 * d * n * order
        factor = CHOLESKY_COST * order**3 / 3
        return gram + factor + TRIANGULAR_COST * 4 * value_size * order**2

    if cost(n) <= cost(d):
        return "dual"
    return "streamed" if d * n * precision.itemsize > STREAM_BYTES else "primal"


@dataclass(frozen=True)
class Sums:
    r"""UUᵀ and DUᵀ over columns: all that the shift depends on, however many there are.

    The sums of two batches, or of two machines, add up to those of all; taking a batch's sums out
    again is as if its columns had never been there. The keys themselves are not kept.

    Attributes:
        gram: UUᵀ, shape (d, d), in the precision of the solve.
        cross: DUᵀ, shape (d', d), in the same precision.
    """

    gram: Tensor
    cross: Tensor

    @classmethod
    def zeros(
        cls,
        *,
        key_size: int,
        value_size: int,
        precision: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> "Sums":
        """Return the sums over no columns."""
        kind: dict[str, Any] = {"dtype": precision, "device": device}
        return cls(
            torch.zeros(key_size, key_size, **kind), torch.zeros(value_size, key_size, **kind)
        )

    def add(self, keys: Tensor, differences: Tensor) -> None:
        """Add columns in place: keys (d, k) and value differences (d', k)."""
        u, v = keys.to(self.gram.dtype), differences.to(self.gram.dtype)
        self.gram.addmm_(u, u.T)
        self.cross.addmm_(v, u.T)

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sums over the columns of both."""
        return Sums(self.gram + other.gram, self.cross + other.cross)

    def __sub__(self, other: "Sums") -> "Sums":
        """Return the sums over the columns that are not the other's."""
        return Sums(self.gram - other.gram, self.cross - other.cross)

    def shift(self, lam: Tensor, *, penalty: Penalty = RIDGE) -> Tensor:
        """Return S, shape (d', d), differentiably in DUᵀ and λ; see :func:`shift_of_sums`."""
        gram = penalty.encode(penalty.encode(self.gram).T)
        return penalty.decode(shift_of_sums(gram, penalty.encode(self.cross.T).T, lam))


class _Waiting:
    """Tensors that wait for a backward pass in the host's memory.

    All layers' factors wait at once, more than a GPU may hold beside a language model.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._device = tensors[0].device
        self._tensors = [tensor.cpu() for tensor in tensors]

    def back(self) -> list[Tensor]:
        """Return the tensors where they came from."""
        return [tensor.to(self._device) for tensor in self._tensors]


class _DualShift(torch.autograd.Function):
    """S = D(UᵀU + λI)⁻¹Uᵀ with Theorems 1 and 2 as its backward pass; n x n is factored."""

    @staticmethod
    def forward(
        ctx: Any, differences: Tensor, lam: Tensor, keys: Tensor, precision: torch.dtype
    ) -> Tensor:
        u = keys.to(precision)
        factor = _cholesky(u.T @ u, float(lam))
        y = _solve(factor, differences.to(precision))  # D (UᵀU + λI)⁻¹
        ctx.waiting, ctx.lam, ctx.dtype = _Waiting(u, factor, y), lam, differences.dtype
        return (y @ u.T).to(differences.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
        u, factor, y = ctx.waiting.back()
        grad_differences = _solve(factor, grad_shift.to(u.dtype) @ u)
        # ⟨∇S, S(UUᵀ + λI)⁻¹⟩ = ⟨∇D, Y⟩: no difference of large numbers when λ is small.
        grad_lam = -(grad_differences * y).sum()
        return grad_differences.to(ctx.dtype), _like(grad_lam, ctx.lam), None, None


class _ShiftOfSums(torch.autograd.Function):
    """S = DUᵀ(UUᵀ + λI)⁻¹ as a function of DUᵀ; what it keeps does not depend on n."""

    @staticmethod
    def forward(ctx: Any, cross: Tensor, lam: Tensor, gram: Tensor) -> Tensor:
        if not cross.isfinite().all():
            raise NormalEquationError("the differences must be finite: look for NaN upstream")
        factor = _cholesky(gram, float(lam))
        shift = _solve(factor, cross)
        ctx.waiting, ctx.lam = _Waiting(factor, shift), lam
        return shift.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
        factor, shift = ctx.waiting.back()
        z = _solve(factor, grad_shift)
        return z, _like(-(z * shift).sum(), ctx.lam), None


def _cross(differences: Tensor, keys: Tensor, precision: torch.dtype) -> Tensor:
    """Return DUᵀ of some columns; with it, ∇D = ZU of Theorem 1 is left to autograd."""
    return differences.to(precision) @ keys.to(precision).T


def _like(value: Tensor, other: Tensor) -> Tensor:
    return value.to(other.dtype).reshape(other.shape)


def _cholesky(gram: Tensor, lam: float) -> Tensor:
    """Factor gram + λI, or say why that is impossible."""
    if not (math.isfinite(lam) and lam > 0):
        raise NormalEquationError(f"λ must be positive and finite, got {lam}")
    if not gram.isfinite().all():
        raise NormalEquationError(f"the keys are too large: their products overflow {gram.dtype}")
    system = gram.clone()
    system.diagonal().add_(lam)
    factor, info = torch.linalg.cholesky_ex(system)
    if info.item() != 0:
        largest = gram.abs().sum(dim=1).max().item()  # bounds the largest eigenvalue
        raise NormalEquationError(
            f"the factorisation of a {tuple(gram.shape)} system failed at λ = {lam:.3g}: its "
            f"condition number is about {(largest + lam) / lam:.1e}, too large for {gram.dtype}; "
            "raise λ, or solve in float64"
        )
    return factor


def _solve(factor: Tensor, rows: Tensor) -> Tensor:
    """Return X A⁻¹ for A = LLᵀ given by its factor and X of shape (k, order of A)."""
    return torch.cholesky_solve(rows.T, factor).T


def _check_features(keys: Tensor, other: Tensor, name: str) -> None:
    if other.ndim != 2 or other.shape[0] != keys.shape[0]:
        raise ValueError(f"keys have {keys.shape[0]} features, the {name} {tuple(other.shape)}")


def _check(chunks: tuple[Tensor, ...], differences: Tensor, lam: Tensor) -> None:
    """Refuse what cannot be solved, before anything is computed."""
    if not chunks or any(u.ndim != 2 for u in chunks) or differences.ndim != 2:
        raise ValueError("keys must have shape (d, n) and differences (d', n)")
    if len({u.shape[0] for u in chunks}) != 1:
        raise ValueError(f"chunks of keys differ in d: {sorted({u.shape[0] for u in chunks})}")
    columns = sum(u.shape[1] for u in chunks)
    if columns != differences.shape[1]:
        raise ValueError(
            f"keys have {columns} columns and differences {differences.shape[1]}: one column of "
            "each for every cached token"
        )
    if any(u.dtype != differences.dtype for u in chunks):
        found = next(u.dtype for u in chunks if u.dtype != differences.dtype)
        raise ValueError(f"keys are {found} and differences {differences.dtype}")
    if any(u.requires_grad for u in chunks):
        raise ValueError("keys are constants of the normal equation: detach them")
    if lam.numel() != 1:
        raise ValueError(f"λ must be a scalar, got shape {tuple(lam.shape)}")
    if not all(torch.isfinite(x).all().item() for x in (*chunks, differences)):
        raise NormalEquationError("keys and differences must be finite: look for NaN upstream")
