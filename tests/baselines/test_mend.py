import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baselines.mend import MEND
from malmen.settings import HyperSettings

LAYERS = {"one": (7, 5), "two": (7, 5)}
RATES = torch.tensor([0.3, 0.7], dtype=torch.float64)


def new_editor() -> MEND:
    editor = MEND(LAYERS, HyperSettings(rank=3)).double()
    with torch.no_grad():
        editor.learning_rates.copy_(RATES)
    editor.observe({"one": tokens(20, seed=9)})
    return editor


def tokens(n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, 7, generator=generator, dtype=torch.float64),
        torch.randn(n, 5, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("n", [0, 1, 8])
def test_the_shift_is_the_sum_of_outer_products(layer: str, n: int) -> None:
    editor = new_editor()
    keys, gradients = tokens(n, seed=n)
    outputs = editor.outputs(layer, keys, gradients)
    assert outputs.shape == (n, 12)
    wanted = torch.zeros(5, 7, dtype=torch.float64)
    pseudo_keys, pseudo_gradients = editor.pseudo(layer, keys, gradients)
    for j in range(n):
        wanted -= RATES[editor.layer_index[layer]] * torch.outer(
            pseudo_gradients[j], pseudo_keys[j]
        )
    torch.testing.assert_close(editor.combine(layer, keys, outputs), wanted, rtol=1e-12, atol=1e-12)


@given(n=st.integers(1, 12), cut=st.floats(0, 1), seed=st.integers(0, 1000))
def test_shifts_of_parts_add_up(n: int, cut: float, seed: int) -> None:
    editor = new_editor()
    keys, gradients = tokens(n, seed=seed)
    outputs = editor.outputs("one", keys, gradients)
    at = round(cut * n)
    parts = sum(
        editor.combine("one", u, o)
        for u, o in ((keys[:at], outputs[:at]), (keys[at:], outputs[at:]))
    )
    torch.testing.assert_close(editor.combine("one", keys, outputs), parts, rtol=1e-12, atol=1e-12)


@given(order=st.permutations(range(9)))
def test_the_order_of_tokens_does_not_matter(order: list[int]) -> None:
    editor = new_editor()
    keys, gradients = tokens(9, seed=3)
    outputs = editor.outputs("two", keys, gradients)
    torch.testing.assert_close(
        editor.combine("two", keys[order], outputs[order]),
        editor.combine("two", keys, outputs),
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_repeated_token_counts_as_often_as_it_stands() -> None:
    editor = new_editor()
    keys, gradients = (t.expand(10, -1) for t in tokens(1, seed=4))
    outputs = editor.outputs("one", keys, gradients)
    torch.testing.assert_close(
        editor.combine("one", keys, outputs), 10 * editor.combine("one", keys[:1], outputs[:1])
    )
