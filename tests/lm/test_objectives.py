import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from malmen.lm.objectives import BinaryVerdict, TokenPrediction

token, verdict = TokenPrediction(), BinaryVerdict()


def pairs_of_logits(width: int, *, largest: float) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    def build(seed: int, answers: int, scale: float) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(2, answers, width, generator=generator, dtype=torch.float64)
        return logits[0], logits[1]

    return st.builds(build, st.integers(0, 10_000), st.integers(1, 5), st.floats(0, largest))


@given(pair=pairs_of_logits(7, largest=30))
def test_token_loss_and_divergence_are_those_of_categorical_distributions(
    pair: tuple[Tensor, Tensor],
) -> None:
    logits, reference = pair
    targets = torch.arange(len(logits)) % 7
    p, q = Categorical(logits=reference), Categorical(logits=logits)
    torch.testing.assert_close(token.loss(logits, targets), -q.log_prob(targets))
    torch.testing.assert_close(token.divergence(logits, reference), kl_divergence(p, q))


@given(pair=pairs_of_logits(1, largest=10))
def test_verdict_loss_and_divergence_are_those_of_bernoulli_distributions(
    pair: tuple[Tensor, Tensor],
) -> None:
    logits, reference = pair
    targets = torch.arange(len(logits)) % 2
    p, q = Bernoulli(logits=reference.squeeze(-1)), Bernoulli(logits=logits.squeeze(-1))
    torch.testing.assert_close(verdict.loss(logits, targets), -q.log_prob(targets.double()))
    # The distributions' own divergence clamps probabilities: at |logit| of 30 it is off by 1e-8.
    torch.testing.assert_close(
        verdict.divergence(logits, reference), kl_divergence(p, q), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("objective", [token, verdict])
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_divergence_is_positive_and_zero_for_equal_logits(
    objective: TokenPrediction | BinaryVerdict, scale: float
) -> None:
    width = 5 if objective is token else 1
    logits, other = scale * torch.randn(
        2, 8, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    assert (objective.divergence(logits, logits) == 0).all()
    assert (objective.divergence(logits, other) >= 0).all()
    # A constant added to all logits of a token changes no probability.
    shift = 3.0 if objective is token else 0.0
    torch.testing.assert_close(
        objective.divergence(logits + shift, other), objective.divergence(logits, other)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("before", "after"), [(20.0, -20.0), (-40.0, 40.0), (90.0, -90.0), (300.0, -200.0), (0.0, 99.0)]
)
def test_saturated_verdicts_keep_their_divergence_and_its_gradient(
    before: float, after: float, dtype: torch.dtype
) -> None:
    logits = torch.tensor([[after]], dtype=dtype, requires_grad=True)
    divergence = verdict.divergence(logits, torch.tensor([[before]], dtype=dtype))
    divergence.sum().backward()
    p = 1 / (1 + torch.tensor(-before, dtype=torch.float64).exp())
    # The gradient of KL(p ‖ q) in the logit of q is q - p, and it does not vanish here.
    gradient = torch.sigmoid(torch.tensor(after, dtype=torch.float64)) - p
    assert abs(gradient) > 0.4
    torch.testing.assert_close(logits.grad.double(), gradient.view(1, 1), rtol=1e-5, atol=0)
    # KL = cross-entropy - entropy; log(1 + e^|after|) is |after| here.
    expected = abs(after) if before else abs(after) / 2 - math.log(2)
    assert divergence.item() == pytest.approx(expected, rel=1e-5)


def test_a_token_far_from_the_reference_keeps_its_gradient() -> None:
    reference = torch.tensor([[200.0, 0.0, 0.0]])
    logits = torch.tensor([[-200.0, 0.0, 0.0]], requires_grad=True)
    token.divergence(logits, reference).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 0.5, 0.5]]))


@pytest.mark.parametrize("target", [0, 1])
def test_a_wrong_saturated_verdict_keeps_its_loss(target: int) -> None:
    logits = torch.tensor([[150.0 * (1 - 2 * target)]], requires_grad=True)
    loss = verdict.loss(logits, torch.tensor([target]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(150)
    assert logits.grad.abs().item() == pytest.approx(1)


def test_predictions() -> None:
    assert token.predict(torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])).tolist() == [1, 0]
    assert verdict.predict(torch.tensor([[0.1], [-0.1], [0.0]])).tolist() == [1, 0, 0]
