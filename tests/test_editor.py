import pytest
import torch
from tiny_models import (
    BLOCKS,
    HIDDEN,
    INNER,
    KINDS,
    bits,
    plain_logits,
    plain_loss,
    random_facts,
    tiny_lm,
    two_shapes_lm,
)

from malmen.capture import capture
from malmen.editor import HyperNetworkEditor
from malmen.editors import EDITORS
from malmen.encoding import EncodedFact
from malmen.evaluation import edit_and_score
from malmen.language_model import LanguageModel
from malmen.meta_gradient import meta_gradient
from malmen.settings import HyperSettings

editors = pytest.mark.parametrize("name", EDITORS)
kinds = pytest.mark.parametrize("kind", KINDS)


def new_editor(
    name: str, lm: LanguageModel, *, seed: int = 0, **changes: int
) -> HyperNetworkEditor:
    settings = HyperSettings(**{"rank": 5, "learning_rate": 1e-2, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EDITORS[name](lm.shapes, settings).double()


def observed_editor(name: str, lm: LanguageModel, facts: list[EncodedFact]) -> HyperNetworkEditor:
    editor = new_editor(name, lm)
    editor.observe(capture(lm, lm.batches([fact.edit for fact in facts], size=4)))
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
    lm = two_shapes_lm()
    assert set(lm.shapes.values()) == {(INNER, HIDDEN), (HIDDEN, INNER)}
    editor = new_editor(name, lm)
    assert [network.key_size for network in editor.networks] == [HIDDEN, INNER]
    assert all(len(network.blocks[0].scale) == 2 for network in editor.networks)
    assert editor.learning_rates.shape == (4,)

    facts = random_facts("llama", 5)
    record = capture(lm, lm.batches([fact.edit for fact in facts], size=5))
    editor.observe(record)
    tokens = len(next(iter(record.values()))[0])
    for network in editor.networks:
        assert network.keys.count == network.gradients.count == 2 * tokens


@editors
def test_layers_do_not_read_each_others_scale_offset_or_rate(name: str) -> None:
    lm = two_shapes_lm()
    facts = random_facts("llama", 3)
    editor = observed_editor(name, lm, facts)
    edits = [fact.edit for fact in facts]
    before = editor.edit(lm, edits)
    changed, *others = lm.entry.modules[1:2] + lm.entry.modules[:1] + lm.entry.modules[2:]
    network, index = editor._network_of[changed]
    with torch.no_grad():
        editor.networks[network].blocks[0].offset[index] += 0.5
        editor.learning_rates[editor.layer_index[changed]] *= 2
    after = editor.edit(lm, edits)
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
    shifts = observed_editor(name, lm, facts).edit(lm, [fact.edit for fact in facts])
    assert list(shifts) == list(lm.entry.modules)
    for layer, shift in shifts.items():
        d, value_size = lm.shapes[layer]
        assert shift.shape == (value_size, d)
        assert shift.any()
        assert not shift.requires_grad


@kinds
@editors
@pytest.mark.parametrize("cached", ["ans", "all"])
def test_a_new_editor_lowers_the_loss_of_its_edits(kind: str, name: str, cached: str) -> None:
    # At initialisation both editors step along normalised gradients: downhill, if η is small.
    lm = tiny_lm(kind, cached=cached)
    facts = random_facts(kind, 4)
    editor = observed_editor(name, lm, facts)
    with torch.no_grad():
        for network in editor.networks:  # raw gradients: normalised ones are centred, too
            network.gradients.mean.zero_()
            network.keys.mean.zero_()
        editor.learning_rates.fill_(1e-4)
    shifts = editor.edit(lm, [fact.edit for fact in facts])
    before, after = (
        sum(plain_loss(plain_logits(lm, f.edit, s), f.edit).item() for f in facts)
        for s in (None, shifts)
    )
    assert after < before


@editors
def test_the_order_of_edits_and_the_batches_do_not_matter(name: str) -> None:
    lm = tiny_lm("gpt2", cached="all")
    facts = random_facts("gpt2", 6)
    edits = [fact.edit for fact in facts]
    editor = observed_editor(name, lm, facts)
    wanted = editor.edit(lm, edits)
    for fact_batch, token_batch in ((1, 1), (4, 7), (6, 1000)):
        other = new_editor(name, lm, fact_batch=fact_batch, token_batch=token_batch)
        other.load_state_dict(editor.state_dict())
        for layer, shift in other.edit(lm, edits[::-1]).items():
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
        editor.edit(lm, [fact.edit for fact in facts])
        edit_and_score(editor, lm, facts, size=3)
        assert bits(editor) == before
    assert bits(lm.model) == weights
    assert all(p.grad is None for p in editor.parameters())


@editors
def test_a_network_learns_from_its_first_step(name: str) -> None:
    lm = tiny_lm("llama")
    facts = random_facts("llama", 5)
    editor = observed_editor(name, lm, facts)
    record = capture(lm, lm.batches([fact.edit for fact in facts], size=5))
    meta_gradient(editor, lm, record, facts)
    for block in editor.networks[0].blocks:
        assert block.B.grad.any()
