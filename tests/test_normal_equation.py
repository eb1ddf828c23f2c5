"""The theorems of the normal equation, as properties.

Tolerances are bounds of the rounding error (`Problem.rounding`), so they follow λ and the keys.
"""

import doctest
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matrix_strategies import (
    SHAPES,
    Problem,
    every_shape,
    independent_keys,
    of_shape,
    places,
    powers,
    problems,
    seeds,
    split,
)

import malmen.normal_equation
from malmen.normal_equation import (
    Metric,
    NormalEquationError,
    Subspace,
    Sums,
    cheaper_form,
    parameter_shift,
    shift_of_sums,
)

pytestmark = pytest.mark.theorem

FORMS = ["primal", "dual", "streamed"]
each_form = pytest.mark.parametrize("form", FORMS)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def plain_shift(keys, differences, lam):
    """The paper's expression, left to autograd."""
    identity = torch.eye(keys.shape[0], dtype=keys.dtype)
    return differences @ keys.T @ torch.linalg.inv(keys @ keys.T + lam * identity)


def solved(problem, **options):
    """Return S, ∇D and ∇λ for this gradient of S."""
    return differentiated(
        problem, lambda differences, lam: parameter_shift(problem.keys, differences, lam, **options)
    )


def differentiated(problem, shift_of):
    differences, lam = problem.differences.clone().requires_grad_(), scalar(problem.lam)
    shift = shift_of(differences, lam.requires_grad_())
    gradients = torch.autograd.grad(shift, (differences, lam), problem.grad_shift)
    return shift.detach(), *gradients


def assert_near(actual, expected, error):
    """Compare in the norm in which the error is bounded."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert (actual - expected).norm().item() <= error


def assert_same_answer(problem, actual, expected):
    """Compare S, ∇D and ∇λ: twice the error, for either may be off."""
    errors = (problem.shift_error(), problem.differences_error(), problem.lam_error())
    for one, other, error in zip(actual, expected, errors, strict=True):
        assert_near(one, other, 2 * error)


# --- Theorems 1 and 2 ---


@each_form
@every_shape()
@given(problem=problems())
def test_theorems_1_and_2_are_autograd_of_the_plain_expression(form, problem):
    expected = differentiated(
        problem, lambda differences, lam: plain_shift(problem.keys, differences, lam)
    )
    assert_same_answer(problem, solved(problem, form=form), expected)


@each_form
@every_shape()
@given(problem=problems())
def test_theorems_1_and_2_as_the_paper_writes_them(form, problem):
    shift, grad_differences, grad_lam = solved(problem, form=form)
    z = torch.linalg.solve(problem.system, problem.grad_shift, left=False)
    assert_near(grad_differences, z @ problem.keys, 2 * problem.differences_error())
    assert_near(grad_lam, -(z * shift).sum(), 2 * problem.lam_error())


@each_form
@every_shape()
@given(problem=problems())
def test_log_lambda_learns_by_lambda_times_theorem_2(form, problem):
    log_lam = scalar(problem.lam).log().requires_grad_()
    shift = parameter_shift(problem.keys, problem.differences, log_lam.exp(), form=form)
    (gradient,) = torch.autograd.grad(shift, log_lam, problem.grad_shift)
    leaf = log_lam.detach().clone().requires_grad_()
    plain = plain_shift(problem.keys, problem.differences, leaf.exp())
    (expected,) = torch.autograd.grad(plain, leaf, problem.grad_shift)
    assert_near(gradient, expected, 2 * problem.lam * problem.lam_error())


@each_form
@every_shape()
@given(problem=problems(lam=powers(-2, 2), scale=powers(-1, 1)))
def test_gradcheck(form, problem):
    if not problem.columns:
        return  # gradcheck takes no empty input; see the test of no columns
    differences = problem.differences.clone().requires_grad_()
    log_lam = scalar(problem.lam).log().requires_grad_()
    # Central differences: rounding of S over the step, and the third derivative in log λ, which
    # the gain bounds as it does S.
    step = 1e-4
    truncation = step**2 * problem.gain * problem.differences.norm().item()
    assert torch.autograd.gradcheck(
        lambda d, t: parameter_shift(problem.keys, d, t.exp(), form=form),
        (differences, log_lam),
        eps=step,
        atol=(problem.shift_error() + problem.rounding()) / step + truncation,
        rtol=0.0,
    )


@each_form
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exponent", range(-4, 5))
def test_the_answer_of_exact_arithmetic(form, shape, exponent):
    """Duplicates at λ = 1e-4 included: no reference that rounds could vouch for these."""
    problem = of_shape(shape, lam=10.0**exponent)
    shift, grad_differences, grad_lam = solved(problem, form=form)
    exact_shift, exact_grad_differences, exact_grad_lam = exactly_solved(problem)
    assert_near(shift, exact_shift, problem.shift_error())
    assert_near(grad_differences, exact_grad_differences, problem.differences_error())
    assert_near(grad_lam, exact_grad_lam, problem.lam_error())
    assert problem.rounding() < 1e-8


def exactly_solved(problem):
    """Return S, ∇D and ∇λ by rational arithmetic, rounded once at the end."""
    u, differences, grad_shift = map(exact, (problem.keys, problem.differences, problem.grad_shift))
    inverse = exact_inverse(u @ u.T + Fraction(problem.lam) * np.eye(problem.key_size, dtype=int))
    shift, z = differences @ u.T @ inverse, grad_shift @ inverse
    return [torch.tensor(np.array(x, dtype=float)) for x in (shift, z @ u, -(z * shift).sum())]


def exact(matrix):
    return np.vectorize(Fraction, otypes=[object])(matrix.numpy())


def exact_inverse(matrix):
    """Invert a positive definite matrix by Gauss and Jordan."""
    matrix, inverse = matrix.copy(), exact(torch.eye(len(matrix)))
    for i in range(len(matrix)):
        for rows in (inverse, matrix):  # the matrix last: its pivot and column are still needed
            rows[i] /= matrix[i, i]
        for j in range(len(matrix)):
            if j != i:
                factor = matrix[j, i]
                matrix[j] -= factor * matrix[i]
                inverse[j] -= factor * inverse[i]
    return inverse


# --- three forms, one answer ---


@every_shape()
@given(problem=problems())
def test_the_forms_agree(problem):
    primal, dual, streamed, auto = (
        solved(problem, form=form) for form in ("primal", "dual", "streamed", "auto")
    )
    assert_same_answer(problem, dual, primal)
    assert_same_answer(problem, streamed, primal)
    assert_same_answer(problem, auto, primal)


@pytest.mark.parametrize("form", [*FORMS, "auto"])
@every_shape(places=[0.1, 0.1, 0.7])
@given(problem=problems(), places=places)
def test_keys_may_come_in_uneven_chunks(form, problem, places):
    chunks = split(problem.keys, places)
    chunked = differentiated(problem, lambda d, lam: parameter_shift(chunks, d, lam, form=form))
    assert_same_answer(problem, chunked, solved(problem, form="primal"))


@every_shape(width=2)
@given(problem=problems(), width=st.integers(1, 30))
def test_streaming_converts_a_few_columns_at_a_time(problem, width):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(malmen.normal_equation, "CHUNK", width)
        streamed = solved(problem, form="streamed")
    assert_same_answer(problem, streamed, solved(problem, form="primal"))


def accumulated(problem, pieces=()):
    """Return the sums of a problem's columns, added in these pieces (or in one)."""
    sums = Sums.zeros(key_size=problem.key_size, value_size=problem.value_size)
    for piece in pieces or [range(problem.columns)]:
        columns = list(piece)
        sums.add(problem.keys[:, columns], problem.differences[:, columns])
    return sums


@every_shape(places=[0.3, 0.9])
@given(problem=problems(), places=places)
def test_sums_are_invariant_to_the_split(problem, places):
    pieces = split(torch.arange(problem.columns)[None], places)
    sums = accumulated(problem, [piece[0].tolist() for piece in pieces])
    found = differentiated(problem, lambda d, lam: Sums(sums.gram, d @ problem.keys.T).shift(lam))
    assert_same_answer(problem, found, solved(problem, form="primal"))
    assert_near(sums.shift(scalar(problem.lam)), found[0], 2 * problem.shift_error())


@every_shape()
@given(problem=problems())
def test_a_shift_of_sums_has_the_gradients_of_its_columns(problem):
    keys, lam = problem.keys, scalar(problem.lam).requires_grad_()
    cross = (problem.differences @ keys.T).requires_grad_()
    shift = shift_of_sums(keys @ keys.T, cross, lam)
    shift.backward(problem.grad_shift)
    found = shift.detach(), cross.grad @ keys, lam.grad
    assert_same_answer(problem, found, solved(problem, form="primal"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sums_that_are_not_finite_are_refused(value):
    eye, bad = torch.eye(2, dtype=torch.float64), torch.full((1, 2), value, dtype=torch.float64)
    with pytest.raises(NormalEquationError, match="must be finite"):
        shift_of_sums(eye, bad, scalar(1.0))
    with pytest.raises(NormalEquationError, match="too large"):
        shift_of_sums(eye * value, torch.ones_like(bad), scalar(1.0))


@every_shape(place=0.5)
@given(problem=problems(), place=st.floats(0, 1))
def test_sums_of_two_batches_add_up_and_come_apart(problem, place):
    half = round(place * problem.columns)
    first = accumulated(problem, [range(half)])
    second = accumulated(problem, [range(half, problem.columns)])
    lam = scalar(problem.lam)
    assert_near((first + second).shift(lam), solved(problem)[0], 2 * problem.shift_error())
    left = (first + second - second).shift(lam)  # off by the rounding of what was there
    assert_near(left, first.shift(lam), 2 * problem.shift_error())


@pytest.mark.parametrize("lam", [0.0, -1.0, torch.nan, torch.inf])
def test_sums_refuse_the_same_lambdas(lam):
    sums = accumulated(of_shape("nothing but zero keys"))
    with pytest.raises(NormalEquationError, match="λ must be positive and finite"):
        sums.shift(scalar(lam))


@each_form
def test_one_factorisation_serves_forward_and_backward(form, monkeypatch):
    factored = []
    cholesky_ex = torch.linalg.cholesky_ex
    monkeypatch.setattr(
        torch.linalg, "cholesky_ex", lambda a: factored.append(a.shape) or cholesky_ex(a)
    )
    problem = of_shape("n > d")
    solved(problem, form=form)
    order = problem.columns if form == "dual" else problem.key_size
    assert factored == [(order, order)]


# --- other penalties: λC in place of λI, and a sub-space ---


def lower_triangular(problem, spread):
    """Return L of a matrix LLᵀ with singular values of L from 1/spread to 1, and L⁻¹'s norm."""
    generator = torch.Generator().manual_seed(problem.seed)
    normal = torch.randn(problem.key_size, problem.key_size, generator=generator).double()
    values = spread ** -torch.linspace(0, 1, problem.key_size, dtype=torch.float64)
    return torch.linalg.qr((torch.linalg.qr(normal).Q * values).T).R.T


@each_form
@every_shape(spread=10.0)
@given(problem=problems(), spread=powers(0, 2))
def test_in_another_metric_it_is_the_dense_solution(form, problem, spread):
    """S = DUᵀ(UUᵀ + λC)⁻¹; the errors of whitening and of the dense system go with C's spread."""
    factor = lower_triangular(problem, spread)
    whitened = torch.linalg.solve_triangular(factor, problem.keys, upper=False)
    norm = max(torch.linalg.svdvals(whitened).tolist(), default=0.0)
    condition = (norm**2 + problem.lam) / problem.lam
    gain = min(norm / problem.lam, 0.5 * problem.lam**-0.5)
    sizes = 8 * (problem.key_size + problem.columns) * torch.finfo(torch.float64).eps
    error = sizes * spread**3 * condition * gain * problem.differences.norm().item()
    system = problem.keys @ problem.keys.T + problem.lam * factor @ factor.T
    cross = problem.differences @ problem.keys.T
    expected = torch.linalg.solve(system, cross, left=False)
    shift = parameter_shift(
        problem.keys,
        problem.differences,
        scalar(problem.lam),
        penalty=Metric(factor),
        form=form,
    )
    assert_near(shift, expected, error)
    shift = accumulated(problem).shift(scalar(problem.lam), penalty=Metric(factor))
    assert_near(shift, expected, error)


@each_form
@pytest.mark.parametrize("kind", [Metric, Subspace])
@every_shape()
@given(problem=problems())
def test_the_penalty_of_the_identity_is_the_plain_one(form, kind, problem):
    penalty = kind(torch.eye(problem.key_size, dtype=torch.float64))
    answer = differentiated(
        problem,
        lambda differences, lam: parameter_shift(
            problem.keys, differences, lam, penalty=penalty, form=form
        ),
    )
    assert_same_answer(problem, answer, solved(problem, form=form))


def basis(problem, share):
    """Return an orthonormal basis of a share of the dimensions, (d, k)."""
    generator = torch.Generator().manual_seed(problem.seed)
    normal = torch.randn(problem.key_size, problem.key_size, generator=generator).double()
    return torch.linalg.qr(normal).Q[:, : round(share * problem.key_size)]


@each_form
@every_shape(share=0.5)
@given(problem=problems(), share=st.floats(0, 1))
def test_in_a_subspace_it_is_the_projected_solution(form, problem, share):
    """S = DUᵀP(PUUᵀP + λI)⁻¹ for P = BBᵀ, so S vanishes on what is orthogonal to B."""
    B, lam = basis(problem, share), scalar(problem.lam)
    projection = B @ B.T
    projected = projection @ problem.keys
    system = projected @ projected.T + lam * torch.eye(problem.key_size, dtype=torch.float64)
    expected = torch.linalg.solve(system, problem.differences @ projected.T, left=False)
    error = 16 * problem.shift_error()  # projecting rounds the keys, and so does each product
    options = {"penalty": Subspace(B), "form": form}
    shift = parameter_shift(problem.keys, problem.differences, lam, **options)
    assert_near(shift, expected, error)
    assert_near(accumulated(problem).shift(lam, penalty=Subspace(B)), expected, error)
    outside = torch.eye(problem.key_size, dtype=torch.float64) - projection
    eps = torch.finfo(torch.float64).eps
    assert (shift @ outside).norm() <= 8 * problem.key_size * eps * shift.norm()


@pytest.mark.parametrize(("kind", "name"), [(Metric, "factor"), (Subspace, "basis")])
def test_a_penalty_that_does_not_fit_is_named(kind, name):
    with pytest.raises(ValueError, match=rf"keys have 3 features, the {name} \(2, 2\)"):
        parameter_shift(U, D, LAM, penalty=kind(torch.eye(2)))


# --- what the shift is ---


def objective(problem, shift):
    misfit = shift @ problem.keys - problem.differences
    return (misfit.square().sum() + problem.lam * shift.square().sum()).item()


@each_form
@every_shape()
@given(problem=problems())
def test_the_shift_is_stationary(form, problem):
    """(SU − D)Uᵀ + λS = 0, up to what the system makes of an error of S."""
    shift = solved(problem, form=form)[0]
    residual = (shift @ problem.keys - problem.differences) @ problem.keys.T + problem.lam * shift
    norm = problem.norm**2 + problem.lam
    assert residual.norm().item() <= 2 * problem.shift_error() * norm


@each_form
@every_shape(size=1e-2, seed=1)
@given(problem=problems(), size=powers(-4, 2), seed=seeds)
def test_every_other_shift_has_a_larger_objective(form, problem, size, seed):
    """Going E away from S costs ‖EU‖² + λ‖E‖²; anywhere else there would be a linear term."""
    shift = solved(problem, form=form)[0]
    generator = torch.Generator().manual_seed(seed)
    away = torch.randn(shift.shape, generator=generator, dtype=shift.dtype)
    away *= size * (problem.gain * problem.differences.norm() + 1) / away.norm()
    least, other = objective(problem, shift), objective(problem, shift + away)
    cost = ((away @ problem.keys).square().sum() + problem.lam * away.square().sum()).item()
    slope = 2 * problem.shift_error() * (problem.norm**2 + problem.lam) * away.norm().item()
    rounding = 10 * (problem.key_size + problem.columns) * torch.finfo(shift.dtype).eps
    assert abs(other - least - cost) <= 2 * slope + rounding * (least + other + cost)


@each_form
@every_shape(seed=1)
@given(problem=problems(), seed=seeds)
def test_the_order_of_the_columns_does_not_matter(form, problem, seed):
    order = torch.randperm(problem.columns, generator=torch.Generator().manual_seed(seed))
    keys = problem.keys[:, order]
    permuted = differentiated(
        problem, lambda d, lam: parameter_shift(keys, d[:, order], lam, form=form)
    )
    assert_same_answer(problem, permuted, solved(problem, form=form))


@each_form
@every_shape()
@given(problem=problems())
def test_identical_keys_may_be_merged(form, problem):
    """S = D P C⁻¹ (ŨᵀŨ + λC⁻¹)⁻¹ Ũᵀ, for n columns P of distinct keys Ũ with counts C."""
    keys, count = problem.distinct, problem.distinct.shape[1]
    assigned = (problem.assignment[:, None] == torch.arange(count)).double()
    inverse_counts = torch.diag(1 / assigned.sum(dim=0))
    means = problem.differences @ assigned @ inverse_counts
    merged = keys.T @ keys + problem.lam * inverse_counts
    expected = torch.linalg.solve(merged, means, left=False) @ keys.T
    assert_near(solved(problem, form=form)[0], expected, 2 * problem.shift_error())


@each_form
@given(problem=problems(), columns=st.integers(1, 5))
def test_zero_keys_change_nothing(form, problem, columns):
    shift, grad_differences, grad_lam = solved(problem, form=form)
    more = replace(problem, zeros=problem.zeros + columns)
    differences = torch.cat([problem.differences, torch.ones(problem.value_size, columns)], dim=1)
    zeros = torch.zeros(problem.key_size, columns)
    keys = torch.cat([problem.keys, zeros], dim=1)
    differences.requires_grad_()
    lam = scalar(problem.lam).requires_grad_()
    padded = parameter_shift(keys, differences, lam, form=form)
    gradients = torch.autograd.grad(padded, (differences, lam), problem.grad_shift)
    grad_kept, grad_padding = gradients[0].tensor_split([problem.columns], dim=1)
    error = 2 * more.rounding() * more.gain * differences.detach().norm().item()
    assert_near(padded.detach(), shift, error)
    assert_near(grad_kept, grad_differences, 2 * more.differences_error())
    assert_near(gradients[1], grad_lam, error * problem.grad_shift.norm().item() / problem.lam)
    assert not grad_padding.any()


@pytest.mark.parametrize("form", [*FORMS, "auto"])
@pytest.mark.parametrize("shape", ["n = 0", "nothing but zero keys"])
def test_nothing_to_write_is_a_zero_shift_with_zero_gradients(form, shape):
    problem = of_shape(shape)
    shift, grad_differences, grad_lam = solved(problem, form=form)
    assert torch.equal(shift, torch.zeros(problem.value_size, problem.key_size).double())
    assert torch.equal(grad_differences, torch.zeros_like(problem.differences))
    assert grad_lam == 0


# --- limits of λ ---


@each_form
@given(problem=problems(lam=powers(0, 12)))
def test_a_large_lambda_gives_no_shift(form, problem):
    """‖S‖ ≤ ‖DUᵀ‖ / λ, which is the limit too: λS → DUᵀ."""
    shift = solved(problem, form=form)[0]
    cross = problem.differences @ problem.keys.T
    error = problem.shift_error()
    assert shift.norm().item() <= cross.norm().item() / problem.lam + error
    tail = problem.norm**2 / problem.lam * cross.norm().item()
    assert_near(problem.lam * shift, cross, tail + problem.lam * error)


@each_form
@given(problem=independent_keys())
def test_a_small_lambda_interpolates(form, problem):
    """SU − D = −λ D (UᵀU + λI)⁻¹, so ‖SU − D‖ ≤ ‖D‖ λ / σ²."""
    shift = solved(problem, form=form)[0]
    smallest = problem.scale / problem.spread
    bound = problem.differences.norm().item() * problem.lam / smallest**2
    assert_near(
        shift @ problem.keys, problem.differences, bound + problem.norm * problem.shift_error()
    )


# --- precision ---


@each_form
@every_shape(condition=1e3)
@given(problem=problems(), condition=powers(0.1, 4))
def test_the_error_of_single_precision_is_bounded_by_the_condition_number(form, problem, condition):
    problem = problem.with_condition(condition)
    single, double = solved(problem, form=form, precision=torch.float32), solved(problem, form=form)
    errors = (problem.shift_error, problem.differences_error, problem.lam_error)
    for one, other, error in zip(single, double, errors, strict=True):
        assert_near(one, other, error(torch.float32) + error(torch.float64))


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_inputs_are_solved_in_double_precision(form, dtype):
    problem = of_shape("duplicates")
    keys, differences = problem.keys.to(dtype), problem.differences.to(dtype).requires_grad_()
    lam = torch.tensor(problem.lam, dtype=torch.float32, requires_grad=True)
    shift = parameter_shift(keys, differences, lam, form=form)
    gradients = torch.autograd.grad(shift, (differences, lam), problem.grad_shift.to(dtype))

    wide = differences.detach().double().requires_grad_(), lam.detach().double().requires_grad_()
    expected = parameter_shift(keys.double(), *wide, form=form)
    grad_shift = problem.grad_shift.to(dtype).double()
    expected_gradients = torch.autograd.grad(expected, wide, grad_shift)
    # The one rounding is that of the answers.
    assert torch.equal(shift, expected.to(dtype))
    assert torch.equal(gradients[0], expected_gradients[0].to(dtype))
    assert torch.equal(gradients[1], expected_gradients[1].float())


@each_form
def test_lambda_may_be_learnt_as_a_tensor_of_one_entry(form):
    problem = of_shape("n > d")
    lam = torch.full((1,), problem.lam, dtype=torch.float64, requires_grad=True)
    shift = parameter_shift(problem.keys, problem.differences, lam, form=form)
    (gradient,) = torch.autograd.grad(shift, lam, problem.grad_shift)
    assert_near(gradient, solved(problem, form=form)[2][None], 2 * problem.lam_error())


# --- errors ---

U, D, LAM = torch.eye(3), torch.ones(2, 3), torch.tensor(1.0)
NAN, INFINITE = torch.full((2, 3), torch.nan), torch.full((3, 3), torch.inf)


@pytest.mark.parametrize(
    ("keys", "differences", "lam", "message"),
    [
        ((), D, LAM, r"keys must have shape \(d, n\)"),
        (torch.ones(3), D, LAM, r"keys must have shape \(d, n\)"),
        (U, torch.ones(3), LAM, r"differences \(d', n\)"),
        ((U, torch.ones(4, 3)), D, LAM, r"differ in d: \[3, 4\]"),
        (torch.ones(3, 4), D, LAM, "keys have 4 columns and differences 3"),
        ((U, U), D, LAM, "keys have 6 columns and differences 3"),
        (U.double(), D, LAM, r"keys are torch\.float64 and differences torch\.float32"),
        ((U[:, :1], U[:, 1:].double()), D, LAM, r"keys are torch\.float64"),
        (U.clone().requires_grad_(), D, LAM, "detach"),
        (U, D, torch.ones(2), r"λ must be a scalar, got shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(keys, differences, lam, message):
    with pytest.raises(ValueError, match=message):
        parameter_shift(keys, differences, lam)


def test_an_unknown_form_is_named_with_the_choices():
    with pytest.raises(ValueError, match="'cubic'; choose auto, primal, dual or streamed"):
        parameter_shift(U, D, LAM, form="cubic")


@pytest.mark.parametrize(
    ("keys", "differences", "lam", "message"),
    [
        (U, D, torch.tensor(0.0), r"λ must be positive and finite, got 0\.0"),
        (U, D, torch.tensor(-2.5), r"λ must be positive and finite, got -2\.5"),
        (U, D, torch.tensor(torch.nan), "λ must be positive and finite, got nan"),
        (U, D, torch.tensor(torch.inf), "λ must be positive and finite, got inf"),
        (U, NAN, LAM, "must be finite"),
        (INFINITE, D, LAM, "must be finite"),
        ((U[:, :1], INFINITE[:, 1:]), D, LAM, "must be finite"),
    ],
)
def test_what_cannot_be_solved_is_named(keys, differences, lam, message):
    with pytest.raises(NormalEquationError, match=message):
        parameter_shift(keys, differences, lam)


@each_form
def test_a_factorisation_that_fails_names_lambda_condition_and_remedy(form):
    """Duplicates at a small λ, in single precision."""
    problem = Problem(
        key_size=12,
        value_size=2,
        copies=(8, 8),
        rank=2,
        scale=1e3,
        spread=1.0,
        zeros=0,
        lam=1e-4,
        seed=0,
    )
    with pytest.raises(NormalEquationError) as failure:
        solved(problem, form=form, precision=torch.float32)
    message = str(failure.value)
    assert "λ = 0.0001" in message
    assert "torch.float32" in message
    assert "raise λ, or solve in float64" in message
    # The estimate bounds the condition number, by at most the order of the system.
    estimate = float(message.split("condition number is about ")[1].split(",")[0])
    order = problem.columns if form == "dual" else problem.key_size
    assert 0.9 * problem.condition <= estimate <= 1.1 * order * problem.condition
    # The remedy works.
    assert_same_answer(problem, solved(problem, form=form), solved(problem, form="dual"))


# --- the choice of the form ---


@pytest.mark.parametrize(
    ("d", "n", "form"),
    [(3072, 0, "dual"), (3072, 64, "dual"), (64, 3072, "primal"), (500, 500, "dual")],
)
def test_the_smaller_system_is_the_cheaper(d, n, form):
    assert cheaper_form(d=d, n=n, value_size=768) == form


def test_keys_too_large_to_copy_are_streamed(monkeypatch):
    problem = of_shape("n > d")
    sizes = {"d": problem.key_size, "n": problem.columns, "value_size": problem.value_size}
    size = problem.key_size * problem.columns * torch.float64.itemsize
    monkeypatch.setattr(malmen.normal_equation, "STREAM_BYTES", size)
    assert cheaper_form(**sizes) == "primal"
    monkeypatch.setattr(malmen.normal_equation, "STREAM_BYTES", size - 1)
    assert cheaper_form(**sizes) == "streamed"
    assert cheaper_form(**sizes, precision=torch.float32) == "primal"
    assert cheaper_form(**{**sizes, "n": 1}) == "dual"
    streamed = solved(problem)
    assert_same_answer(problem, streamed, solved(problem, form="dual"))


@pytest.mark.parametrize("limit", [0, 2**30])
@every_shape()
@given(problem=problems())
def test_the_choice_does_not_change_the_answer(limit, problem):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(malmen.normal_equation, "STREAM_BYTES", limit)
        form = cheaper_form(d=problem.key_size, n=problem.columns, value_size=problem.value_size)
        chosen, named = solved(problem), solved(problem, form=form)
    for one, other in zip(chosen, named, strict=True):
        assert torch.equal(one, other)
    assert_same_answer(problem, chosen, solved(problem, form="primal"))


def test_the_example_of_the_documentation():
    results = doctest.testmod(malmen.normal_equation)
    assert results.attempted == 2
    assert results.failed == 0


# --- the strategies ---


@every_shape()
@given(problem=problems() | independent_keys())
def test_problems_have_what_was_drawn(problem):
    d, n = problem.key_size, problem.columns
    assert problem.keys.shape == (d, n)
    assert problem.differences.shape == (problem.value_size, n)
    assert problem.grad_shift.shape == (problem.value_size, d)
    copies = torch.bincount(problem.assignment, minlength=len(problem.copies)).tolist()
    assert copies == [*problem.copies, *([problem.zeros] if problem.zeros else [])]
    assert int((problem.keys == 0).all(dim=0).sum()) >= problem.zeros
    values = torch.linalg.svdvals(problem.distinct)
    rounding = 10 * (d + n) * torch.finfo(torch.float64).eps * problem.scale
    expected = torch.zeros_like(values)
    expected[: problem.rank] = problem.scale * problem.spread ** -torch.linspace(
        0, 1, problem.rank, dtype=torch.float64
    )
    assert_near(values, expected, rounding)


@given(problem=problems())
def test_problems_do_not_depend_on_what_is_asked_first(problem):
    again = replace(problem)
    assert torch.equal(again.grad_shift, problem.grad_shift)
    assert torch.equal(again.differences, problem.differences)
    assert torch.equal(again.keys, problem.keys)


@given(problem=problems(scale=powers(0, 1)), condition=powers(0.1, 8))
def test_the_condition_is_the_one_asked_for(problem, condition):
    problem = problem.with_condition(condition)
    assert problem.condition == pytest.approx(condition) or not problem.norm


@given(problem=problems(), places=places)
def test_chunks_are_the_columns_in_order(problem, places):
    assert torch.equal(torch.cat(split(problem.keys, places), dim=1), problem.keys)
