from typing import Any

import pytest
import torch
from tiny_models import (
    BLOCKS,
    EDITORS,
    HIDDEN,
    INNER,
    KINDS,
    bits,
    plain_cached,
    plain_logits,
    plain_loss,
    random_facts,
    tiny_lm,
)

from malmen.editor import HyperNetworkEditor
from malmen.evaluation import edit_and_score
from malmen.lm.encoding import EncodedFact
from malmen.lm.kinds import Cached
from malmen.lm.language_model import LanguageModel
from malmen.meta_gradient import meta_gradient
from malmen.settings import HyperSettings

editors = pytest.mark.parametrize("name", EDITORS)
kinds = pytest.mark.parametrize("kind", KINDS)


def new_editor(
    name: str, lm: LanguageModel, *, seed: int = 0, **changes: Any
) -> HyperNetworkEditor:
    settings = HyperSettings(**{"rank": 5, "learning_rate": 1e-2, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EDITORS[name](lm.shapes, settings).double()


def observed_editor(
    name: str, lm: LanguageModel, facts: list[EncodedFact], **changes: Any
) -> HyperNetworkEditor:
    editor = new_editor(name, lm, **changes)
    editor.observe(editor.record(lm, facts))
    return editor


# --- networks and layers ---


@editors
def test_layers_of_one_shape_share_a_network(name: str) -> None:
    editor = new_editor(name, tiny_lm("llama"))
    assert len(editor.networks) == 1
    assert editor.networks[0].blocks[0].scale.shape == (BLOCKS - 1, INNER + HIDDEN)
    assert len(editor.networks[0].blocks) == 2
    assert editor.learning_rates.shape == (BLOCKS - 1,)


@editors
def test_every_shape_has_a_network(name: str) -> None:
    lm = tiny_lm("t5")
    assert set(lm.shapes.values()) == {(INNER, HIDDEN), (HIDDEN, INNER)}
    editor = new_editor(name, lm)
    assert [network.key_size for network in editor.networks] == [HIDDEN, INNER]
    assert all(len(network.blocks[0].scale) == 4 for network in editor.networks)
    assert editor.learning_rates.shape == (8,)

    record = editor.record(lm, random_facts("t5", 5))
    editor.observe(record)
    for network in editor.networks:
        shape = network.key_size, len(network.gradients.mean)
        tokens = sum(len(u) for layer, (u, _) in record.items() if lm.shapes[layer] == shape)
        assert network.keys.count == network.gradients.count == tokens


@editors
def test_layers_do_not_read_each_others_scale_offset_or_rate(name: str) -> None:
    lm = tiny_lm("t5")
    facts = random_facts("t5", 3)
    editor = observed_editor(name, lm, facts)
    before = editor.edit(lm, facts)
    first, changed, *rest = lm.entry.edited
    others = [first, *rest]
    network, index = editor._network_of[changed]
    with torch.no_grad():
        editor.networks[network].blocks[0].offset[index] += 0.5
        editor.learning_rates[editor.layer_index[changed]] *= 2
    after = editor.edit(lm, facts)
    assert not torch.allclose(after[changed], before[changed])
    for layer in others:
        assert torch.equal(after[layer], before[layer])


@editors
def test_initial_rates_are_those_of_the_settings(name: str) -> None:
    editor = new_editor(name, tiny_lm("gpt2"), learning_rate=0.125)
    assert editor.learning_rates.tolist() == [0.125] * (BLOCKS - 1)
    if name == "malmen":
        assert not editor.log_lambdas.any()  # λ = 1


# --- editing ---


@kinds
@editors
def test_shifts_have_the_shape_of_value_by_key(kind: str, name: str) -> None:
    lm = tiny_lm(kind)
    facts = random_facts(kind, 4)
    shifts = observed_editor(name, lm, facts).edit(lm, facts)
    assert list(shifts) == list(lm.entry.edited)
    for layer, shift in shifts.items():
        d, value_size = lm.shapes[layer]
        assert shift.shape == (value_size, d)
        assert shift.any()
        assert not shift.requires_grad


@kinds
@editors
@pytest.mark.parametrize("cached", ["ans", "all"])
def test_a_new_editor_lowers_the_loss_of_its_edits(kind: str, name: str, cached: Cached) -> None:
    # At initialisation both editors step along normalised gradients: downhill, if η is small.
    lm = tiny_lm(kind)
    facts = random_facts(kind, 4)
    editor = observed_editor(name, lm, facts, cached=cached)
    with torch.no_grad():
        for network in editor.networks:  # raw gradients: normalised ones are centred, too
            network.gradients.mean.zero_()
            network.keys.mean.zero_()
        editor.learning_rates.fill_(1e-4)
    shifts = editor.edit(lm, facts)
    before, after = (
        sum(plain_loss(plain_logits(lm, f.edit, s), f.edit).item() for f in facts)
        for s in (None, shifts)
    )
    assert after < before


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
@editors
def test_the_order_of_edits_and_the_batches_do_not_matter(kind: str, name: str) -> None:
    lm = tiny_lm(kind)
    facts = random_facts(kind, 6)
    editor = observed_editor(name, lm, facts, cached="all")
    wanted = editor.edit(lm, facts)
    for fact_batch, token_batch in ((1, 1), (4, 7), (6, 1000)):
        sizes = {"fact_batch": fact_batch, "token_batch": token_batch}
        other = new_editor(name, lm, cached="all", **sizes)
        other.load_state_dict(editor.state_dict())
        for layer, shift in other.edit(lm, facts[::-1]).items():
            assert (shift - wanted[layer]).abs().max() <= 1e-11 * wanted[layer].abs().max()


@kinds
@editors
def test_editing_and_evaluation_move_nothing(kind: str, name: str) -> None:
    lm = tiny_lm(kind)
    facts = random_facts(kind, 6)
    editor = observed_editor(name, lm, facts[:4])
    weights = bits(lm.model)
    for mode in (True, False):
        editor.train(mode)
        before = bits(editor)
        editor.edit(lm, facts)
        edit_and_score(editor, lm, facts, size=3)
        assert bits(editor) == before
    assert bits(lm.model) == weights
    assert all(p.grad is None for p in editor.parameters())


@editors
def test_a_network_learns_from_its_first_step(name: str) -> None:
    lm = tiny_lm("llama")
    facts = random_facts("llama", 5)
    editor = observed_editor(name, lm, facts)
    meta_gradient(editor, lm, editor.record(lm, facts), facts)
    for block in editor.networks[0].blocks:
        assert block.B.grad.any()


# --- which tokens, and what the network sees of them ---


@kinds
@editors
@pytest.mark.parametrize("cached", ["ans", "all"])
def test_an_editor_records_the_tokens_that_its_settings_name(
    kind: str, name: str, cached: Cached
) -> None:
    lm = tiny_lm(kind)
    facts = sorted(random_facts(kind, 5), key=lambda fact: len(fact.edit.ids))
    record = new_editor(name, lm, cached=cached, fact_batch=2).record(lm, facts)
    wanted = plain_cached(lm, [fact.edit for fact in facts], cached)
    for layer, pair in record.items():
        for found, plain in zip(pair, wanted[layer], strict=True):
            torch.testing.assert_close(found, plain, rtol=1e-11, atol=1e-13)


@editors
def test_an_encoder_decoder_is_edited_alike_whatever_is_cached(name: str) -> None:
    lm = tiny_lm("t5")
    facts = random_facts("t5", 4)
    one, other = (
        observed_editor(name, lm, facts, cached=c).edit(lm, facts) for c in ("ans", "all")
    )
    for layer, shift in one.items():
        assert torch.equal(shift, other[layer])


@editors
def test_without_normalisation_the_network_sees_its_raw_input(name: str) -> None:
    lm = tiny_lm("llama")
    facts = random_facts("llama", 5)
    editor = observed_editor(name, lm, facts, normalise=False)
    for layer, (keys, gradients) in editor.record(lm, facts).items():
        # At its initial values the network returns what it sees.
        pseudo_keys, pseudo_gradients = editor.pseudo(layer, keys, gradients)
        assert torch.equal(pseudo_keys, keys)
        assert torch.equal(pseudo_gradients, gradients)
        normalised = observed_editor(name, lm, facts).pseudo(layer, keys, gradients)
        assert not torch.allclose(normalised[0], keys)
