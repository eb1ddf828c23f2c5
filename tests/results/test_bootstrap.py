import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen.results.bootstrap import bootstrap


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw accuracies of a few tokens in up to four edit sets of unequal size."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    tokens = draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    level = draw(st.sampled_from([0.0, 0.02, 0.5, 0.97, 1.0]))
    values = generator.binomial(tokens, level, size=sum(sizes)) / tokens
    return values, np.repeat(np.arange(len(sizes)), sizes)


@given(sample=samples(), seed=st.integers(0, 100))
def test_the_interval_contains_the_mean(sample: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    values, sets = sample
    value, low, high = bootstrap(values, sets, seed=seed, resamples=200)
    assert value == pytest.approx(values.mean(), abs=1e-12)
    assert values.min() <= low <= value <= high <= values.max()


@given(sample=samples(), seed=st.integers(0, 100))
def test_the_order_of_facts_does_not_matter(
    sample: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    values, sets = sample
    order = np.random.default_rng(seed).permutation(len(values))
    assert bootstrap(values, sets, seed=seed, resamples=50) == bootstrap(
        values[order], sets[order], seed=seed, resamples=50
    )


@given(value=st.floats(0, 1), n=st.integers(1, 50), sets=st.integers(1, 4))
def test_equal_values_have_an_interval_of_no_width(value: float, n: int, sets: int) -> None:
    found = bootstrap(np.full(n, value), np.arange(n) % sets, seed=0, resamples=20)
    assert found == (value, value, value)


def test_the_interval_shrinks_with_the_number_of_facts() -> None:
    widths = []
    for n in (16, 64, 256, 1024):
        _, low, high = bootstrap(np.arange(n) % 2, np.zeros(n), seed=0)
        widths.append(high - low)
    ratios = np.array(widths[:-1]) / np.array(widths[1:])
    np.testing.assert_allclose(ratios, 2, rtol=0.15)  # as the square root of n


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    n = 4000
    _, low, high = bootstrap(np.arange(n) % 2, np.zeros(n), seed=0, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(n), rel=0.05)


def test_a_difference_between_sets_widens_the_interval() -> None:
    values, n = np.repeat([0.2, 0.8, 0.2, 0.8], 200), 800
    together = bootstrap(values, np.zeros(n), seed=0)
    apart = bootstrap(values, np.arange(n) // 200, seed=0)
    assert together.value == apart.value
    assert apart.high - apart.low > 5 * (together.high - together.low)


def test_multinomial_draws_match_drawing_facts_one_by_one() -> None:
    generator = np.random.default_rng(3)
    sets = np.repeat([0, 1, 2], [40, 60, 80])
    values = generator.binomial(3, 0.4 + 0.2 * sets) / 3
    means = []
    for _ in range(4000):
        drawn = generator.integers(3, size=3)
        facts = [generator.choice(values[sets == one], size=(sets == one).sum()) for one in drawn]
        means.append(np.concatenate(facts).mean())
    found = bootstrap(values, sets, seed=0, resamples=4000)
    np.testing.assert_allclose(found[1:], np.quantile(means, [0.025, 0.975]), atol=0.02)
