from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import (
    KINDS,
    bits,
    plain_cached,
    plain_logits,
    plain_loss,
    random_facts,
    tiny_lm,
)
from torch import Tensor

from baselines.ultraedit import UltraEdit
from malmen.lm.kinds import Cached
from malmen.lm.language_model import LanguageModel
from malmen.malmen import MALMEN
from malmen.recording.capture import Record
from malmen.settings import HyperSettings, TokenSettings

RATE = 2.0**-7  # exact in single precision, in which an untrained MALMEN holds its rates
SETTINGS = TokenSettings(learning_rate=RATE, token_batch=5, fact_batch=3)

kinds = pytest.mark.parametrize("kind", KINDS)


def plain_shifts(record: Record) -> dict[str, Tensor]:
    """The published formula, one token at a time; layers of one shape are normalised together."""
    shifts = {}
    for layer, (keys, gradients) in record.items():
        family = [p for p in record.values() if _shape(p) == _shape((keys, gradients))]
        moments = [
            (torch.cat(part).mean(0), torch.cat(part).std(0, correction=0))
            for part in zip(*family, strict=True)
        ]
        of_keys, of_gradients = moments
        d = keys.shape[1]
        inverse = torch.linalg.inv(keys.T @ keys + torch.eye(d, dtype=keys.dtype))
        shift = torch.zeros(gradients.shape[1], d, dtype=keys.dtype)
        for u, g in zip(keys, gradients, strict=True):
            u_hat, g_hat = (u - of_keys[0]) / of_keys[1], (g - of_gradients[0]) / of_gradients[1]
            difference = -RATE * (u_hat @ u_hat) * g_hat
            shift += torch.outer(difference, inverse @ u)
        shifts[layer] = shift
    return shifts


def _shape(tokens: tuple[Tensor, Tensor]) -> tuple[int, int]:
    return tokens[0].shape[1], tokens[1].shape[1]


@kinds
@pytest.mark.parametrize("cached", ["ans", "all"])
def test_shifts_are_those_of_the_formula(kind: str, cached: Cached) -> None:
    lm = tiny_lm(kind)
    facts = random_facts(kind, 7)
    editor = UltraEdit(lm.shapes, replace(SETTINGS, cached=cached))
    wanted = plain_shifts(plain_cached(lm, [fact.edit for fact in facts], cached))
    found = editor.edit(lm, facts)
    assert list(found) == list(lm.entry.edited)
    for layer, shift in found.items():
        assert shift.any()
        assert (shift - wanted[layer]).abs().max() <= 1e-10 * wanted[layer].abs().max()


def test_no_call_influences_the_next() -> None:
    lm = tiny_lm("t5")
    first, second = random_facts("t5", 4), random_facts("t5", 5, seed=1)
    editor = UltraEdit(lm.shapes, SETTINGS)
    editor.edit(lm, first)
    found, fresh = editor.edit(lm, second), UltraEdit(lm.shapes, SETTINGS).edit(lm, second)
    for layer, shift in fresh.items():
        assert torch.equal(found[layer], shift)


LLAMA, FACTS = tiny_lm("llama"), random_facts("llama", 6)
SHIFTS = UltraEdit(LLAMA.shapes, SETTINGS).edit(LLAMA, FACTS)


@given(
    fact_batch=st.integers(1, 7),
    token_batch=st.integers(1, 30),
    order=st.permutations(range(6)),
)
def test_batches_and_the_order_of_facts_do_not_matter(
    fact_batch: int, token_batch: int, order: list[int]
) -> None:
    settings = replace(SETTINGS, fact_batch=fact_batch, token_batch=token_batch)
    facts = [FACTS[i] for i in order]
    for layer, shift in UltraEdit(LLAMA.shapes, settings).edit(LLAMA, facts).items():
        assert (shift - SHIFTS[layer]).abs().max() <= 1e-10 * SHIFTS[layer].abs().max()


# --- what it shares with MALMEN ---

LAYERS = {"one": (7, 5), "two": (7, 5), "three": (5, 7)}


def random_record(n: int, *, seed: int, whitened: bool) -> Record:
    """Tokens of every layer; whitened keys have mean 0 and deviation 1 over layers of a shape."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(size: int, layers: int) -> Sequence[Tensor]:
        rows = 3 + 2 * torch.randn(layers * n, size, generator=generator, dtype=torch.float64)
        if whitened:
            rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
        return rows.split(n)

    keys = [*tokens(7, 2), *tokens(5, 1)]
    return {
        layer: (u, torch.randn(n, LAYERS[layer][1], generator=generator, dtype=torch.float64))
        for layer, u in zip(LAYERS, keys, strict=True)
    }


def both_shifts(record: Record) -> tuple[Any, Any]:
    """Return the shifts of UltraEdit, and of MALMEN untrained that has observed the same tokens."""
    lm: Any = SimpleNamespace(device=torch.device("cpu"))
    ultraedit = UltraEdit(LAYERS, SETTINGS)
    ultraedit.record = lambda lm, facts: record  # type: ignore[method-assign]
    malmen = MALMEN(LAYERS, HyperSettings(rank=3, learning_rate=RATE)).double()
    malmen.observe(record)
    return ultraedit.edit(lm, []), malmen.shifts(record)


@given(n=st.integers(3, 20), seed=st.integers(0, 1000))
def test_it_is_malmen_untrained_where_normalised_keys_are_the_keys(n: int, seed: int) -> None:
    found, malmen = both_shifts(random_record(n, seed=seed, whitened=True))
    for layer, shift in malmen.items():
        assert (found[layer] - shift).abs().max() <= 1e-9 * shift.abs().max()


@given(n=st.integers(3, 20), seed=st.integers(0, 1000))
def test_else_they_differ_by_the_norm_of_the_key_alone(n: int, seed: int) -> None:
    record = random_record(n, seed=seed, whitened=False)
    ultraedit, malmen = UltraEdit(LAYERS, SETTINGS), MALMEN(LAYERS, HyperSettings(rank=3)).double()
    malmen.observe(record)
    ultraedit.normalizers = {
        (network.key_size, len(network.gradients.mean)): (network.keys, network.gradients)
        for network in malmen.networks
    }
    with torch.no_grad():
        malmen.learning_rates.fill_(RATE)
    for layer, (keys, gradients) in record.items():
        u_hat, _ = malmen.pseudo(layer, keys, gradients)
        ratio = (u_hat * u_hat).sum(1) / (u_hat * keys).sum(1)
        torch.testing.assert_close(
            ultraedit.outputs(layer, keys, gradients),
            ratio[:, None] * malmen.outputs(layer, keys, gradients).detach(),
            rtol=1e-9,
            atol=1e-12,
        )
        torch.testing.assert_close(
            ultraedit.combine(layer, keys, gradients),
            malmen.combine(layer, keys, gradients).detach(),
            rtol=1e-12,
            atol=1e-12,
        )


# --- on a language model ---


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_language_model_is_left_as_it_was(kind: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    before = bits(lm.model)
    for layer, shift in UltraEdit(lm.shapes, SETTINGS).edit(lm, random_facts(kind, 4)).items():
        assert shift.shape == lm.shapes[layer][::-1]
        assert shift.dtype == torch.float32
        assert not shift.requires_grad
        assert shift.isfinite().all()
    assert bits(lm.model) == before


@kinds
def test_a_small_rate_lowers_the_loss(kind: str) -> None:
    lm = tiny_lm(kind)
    facts = random_facts(kind, 16)

    def loss(lm: LanguageModel, shifts: dict[str, Tensor] | None) -> float:
        return sum(plain_loss(plain_logits(lm, f.edit, shifts), f.edit).item() for f in facts)

    settings = replace(SETTINGS, learning_rate=1e-4, cached="all")
    shifts = UltraEdit(lm.shapes, settings).edit(lm, facts)
    assert loss(lm, dict(shifts)) < loss(lm, None)
