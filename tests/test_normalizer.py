import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from malmen.normalizer import RELATIVE_FLOOR, RunningNormalizer


def observed(*batches: Tensor) -> RunningNormalizer:
    normalizer = RunningNormalizer(batches[0].shape[1])
    for batch in batches:
        normalizer.update(batch)
    return normalizer


def rows_of(n: int, size: int, *, seed: int, offset: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return offset + scale * torch.randn(n, size, generator=generator, dtype=torch.float64)


@given(
    widths=st.lists(st.integers(0, 7), min_size=1, max_size=8).filter(lambda w: sum(w) > 1),
    seed=st.integers(0, 10_000),
    offset=st.floats(-100, 100),
    exponent=st.integers(-12, 6),
)
def test_statistics_are_those_of_all_rows_however_they_came(
    widths: list[int], seed: int, offset: float, exponent: int
) -> None:
    scale = 10.0**exponent
    whole = rows_of(sum(widths), 5, seed=seed, offset=offset * scale, scale=scale)
    normalizer = observed(*whole.split(widths))
    assert normalizer.count.item() == len(whole)
    size = whole.abs().max().item()
    torch.testing.assert_close(normalizer.mean, whole.mean(0), rtol=0, atol=1e-14 * size)
    # The rounding of the mean, 1e-14 of the largest row, is what the deviations lose.
    std = whole.std(0, correction=0)
    floored = std.clamp(min=RELATIVE_FLOOR * std.square().mean().sqrt().item())
    torch.testing.assert_close(normalizer.std(), floored, rtol=1e-10, atol=1e-13 * size)


@given(cut=st.integers(1, 19), order=st.permutations(range(20)), seed=st.integers(0, 1000))
def test_normalised_rows_do_not_depend_on_the_split(cut: int, order: list[int], seed: int) -> None:
    rows = rows_of(20, 4, seed=seed, offset=3)
    shuffled = rows[order]
    one, other = observed(rows), observed(shuffled[:cut], shuffled[cut:])
    torch.testing.assert_close(one(rows), other(rows), rtol=1e-12, atol=1e-12)


def test_normalised_rows_have_mean_zero_and_deviation_one() -> None:
    rows = rows_of(50, 3, seed=0, offset=7, scale=1e-6)
    normal = observed(rows)(rows)
    torch.testing.assert_close(
        normal.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-8, rtol=0
    )
    torch.testing.assert_close(normal.std(0, correction=0), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_are_centred_and_not_scaled(n: int, dtype: torch.dtype) -> None:
    row = rows_of(1, 6, seed=0).to(dtype)
    normalizer = observed(row.expand(n, -1))
    assert normalizer(row).abs().max() <= torch.finfo(dtype).eps
    assert normalizer(row + 1).isfinite().all()
    if n == 1:
        torch.testing.assert_close(normalizer(row + 1), torch.ones(1, 6, dtype=dtype))


def test_one_row_at_a_time_equals_all_at_once() -> None:
    rows = rows_of(30, 4, seed=1)
    one, other = observed(*rows.split(1)), observed(rows)
    torch.testing.assert_close(one.std(), other.std())
    torch.testing.assert_close(one.mean, other.mean)


single = st.floats(-(2.0**100), 2.0**100, width=32)  # subnormal numbers too


@given(
    values=st.lists(st.lists(single, min_size=2, max_size=2), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@example(values=[[1e-45, 0.0], [0.0, 0.0]], dtype=torch.float32)
def test_normalised_rows_are_never_nan(values: list[list[float]], dtype: torch.dtype) -> None:
    rows = torch.tensor(values, dtype=dtype)
    normalizer = observed(*rows.split(2))
    assert normalizer(rows).isfinite().all()
    assert (normalizer.std() > 0).all()


def test_nothing_observed_leaves_rows_as_they_are() -> None:
    rows = rows_of(3, 4, seed=0)
    normalizer = RunningNormalizer(4)
    normalizer.update(rows[:0])
    assert normalizer.count == 0
    assert torch.equal(normalizer(rows), rows)


def test_a_feature_that_hardly_varied_is_held_above_the_floor() -> None:
    rows = rows_of(40, 5, seed=2, scale=1e-4)
    rows[:, 3] = 0.25  # dead so far
    normalizer = observed(rows)
    typical = rows.var(0, correction=0).mean().sqrt().item()
    assert normalizer.std()[3].item() == pytest.approx(RELATIVE_FLOOR * typical)
    later = rows[:1].clone()
    later[0, 3] += typical
    assert normalizer(later)[0, 3].item() == pytest.approx(1 / RELATIVE_FLOOR)
    # The floor is relative: gradients a billion times smaller are treated alike.
    small = observed(1e-9 * rows)
    torch.testing.assert_close(small(1e-9 * later), normalizer(later))


def test_only_update_moves_the_statistics() -> None:
    rows = rows_of(10, 3, seed=3)
    normalizer = observed(rows)
    before = {name: tensor.clone() for name, tensor in normalizer.state_dict().items()}
    for mode in (True, False):
        normalizer.train(mode)
        normalizer(100 + rows)
        normalizer.std()
    for name, tensor in normalizer.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_rows_keep_their_dtype_and_statistics_theirs() -> None:
    rows = rows_of(10, 3, seed=4)
    normalizer = observed(rows.float())
    assert normalizer(rows.float()).dtype == torch.float32
    assert normalizer(rows).dtype == torch.float64
    assert normalizer.mean.dtype == normalizer.squares.dtype == torch.float64


def test_the_count_goes_on_where_single_precision_stalls() -> None:
    large = 2**24
    assert torch.tensor(float(large)) + 1 == float(large)  # what a float32 count would do
    rows = torch.cat([torch.ones(5, 1), -torch.ones(5, 1)]).double()
    normalizer = RunningNormalizer(1)
    normalizer.count.fill_(large)
    normalizer.squares.fill_(large)  # as after 2²⁴ rows of mean 0 and variance 1
    for row in (1 + 2 * rows).split(1):
        normalizer.update(row)
    assert normalizer.count.dtype == torch.int64
    assert normalizer.count.item() == large + 10
    # Ten rows of 3 and -1: sum 10, sum of squares 50.
    total = large + 10
    assert normalizer.mean.item() == pytest.approx(10 / total, rel=1e-12)
    variance = (large + 50) / total - (10 / total) ** 2
    assert normalizer.std().item() == pytest.approx(variance**0.5, rel=1e-14)
    normalizer.count.fill_(2**40)
    normalizer.update(rows)
    assert normalizer.count.item() == 2**40 + 10


def test_statistics_travel_in_the_state() -> None:
    rows = rows_of(10, 3, seed=5)
    normalizer, other = observed(rows), RunningNormalizer(3)
    other.load_state_dict(normalizer.state_dict())
    assert torch.equal(other(rows), normalizer(rows))
    assert not list(normalizer.parameters())
