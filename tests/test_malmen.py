import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from malmen.malmen import MALMEN
from malmen.settings import HyperSettings

LAYERS = {"one": (7, 5), "two": (7, 5)}


def new_editor(**settings: bool) -> MALMEN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        editor = MALMEN(LAYERS, HyperSettings(rank=3, learning_rate=0.3, **settings)).double()
        with torch.no_grad():
            editor.learning_rates.copy_(torch.tensor([0.3, 0.7]))
            editor.log_lambdas.copy_(torch.tensor([-1.0, 0.5]))
    editor.observe({"one": tokens(20, seed=9)})
    return editor


def tokens(n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, 7, generator=generator, dtype=torch.float64),
        torch.randn(n, 5, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize(("layer", "rate"), [("one", 0.3), ("two", 0.7)])
def test_value_differences_are_those_of_the_paper(layer: str, rate: float) -> None:
    editor = new_editor()
    keys, gradients = tokens(6, seed=0)
    differences = editor.outputs(layer, keys, gradients)
    pseudo_keys, pseudo_gradients = editor.pseudo(layer, keys, gradients)
    rate = torch.tensor(rate).double().item()  # as float32 holds it
    for j in range(6):
        inner = sum(a * b for a, b in zip(pseudo_keys[j], keys[j], strict=True))
        torch.testing.assert_close(
            differences[j], -rate * inner * pseudo_gradients[j], rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("n", [1, 4, 7, 20])
def test_the_shift_minimises_the_regularised_squares(layer: str, n: int) -> None:
    editor = new_editor()
    keys, _ = tokens(n, seed=1)
    _, differences = tokens(n, seed=2)
    lam = editor.log_lambdas[editor.layer_index[layer]].exp().detach()
    shift = editor.combine(layer, keys, differences).detach().requires_grad_()
    loss = (keys @ shift.T - differences).square().sum() + lam * shift.square().sum()
    loss.backward()
    assert shift.grad.abs().max() <= 1e-12 * differences.norm() * keys.norm()


@given(order=st.permutations(range(9)))
def test_the_order_of_tokens_does_not_matter(order: list[int]) -> None:
    editor = new_editor()
    keys, differences = tokens(9, seed=3)[0], tokens(9, seed=4)[1]
    torch.testing.assert_close(
        editor.combine("one", keys[order], differences[order]),
        editor.combine("one", keys, differences),
        rtol=1e-11,
        atol=1e-12,
    )


def test_equal_keys_share_their_mean_where_mend_would_add_them_up() -> None:
    editor = new_editor()
    with torch.no_grad():
        editor.log_lambdas.fill_(-20)
    key = tokens(1, seed=5)[0]
    difference = tokens(1, seed=6)[1]
    for copies in (1, 10, 100):
        shift = editor.combine("one", key.expand(copies, -1), difference.expand(copies, -1))
        torch.testing.assert_close(key @ shift.T, difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("learn_lambda", [True, False])
def test_lambda_is_learned_if_the_settings_say_so(learn_lambda: bool) -> None:
    editor = MALMEN(LAYERS, HyperSettings(rank=3, learn_lambda=learn_lambda))
    assert (editor.log_lambdas.exp() == 1).all()
    keys, differences = tokens(6, seed=7)[0].float(), tokens(6, seed=8)[1].float()
    editor.combine("one", keys, differences.requires_grad_()).square().sum().backward()
    assert differences.grad is not None
    assert differences.grad.any()
    if learn_lambda:
        assert editor.log_lambdas.grad.tolist()[0] != 0
    else:
        assert editor.log_lambdas.grad is None


def test_a_fixed_lambda_regularises_like_a_learned_one() -> None:
    keys, differences = tokens(6, seed=7)[0], tokens(6, seed=8)[1]
    fixed, learned = (new_editor(learn_lambda=value) for value in (False, True))
    assert torch.equal(
        fixed.combine("one", keys, differences), learned.combine("one", keys, differences)
    )
