"""The two-phase meta-gradient (paper, Fig. 2).

Phase one turns keys and value gradients into shifts without a graph and back-propagates the meta
loss to the shifts alone. Phase two runs the hyper-network again, with a graph, and back-propagates
the proxy loss Σ_j ⟨∇_{d_j} L_meta, d_j⟩. Memory therefore depends neither on the number of facts
nor on the other phase, and both phases choose their batches independently.

Of a bounded number of tokens, phase one keeps the graph after all, which spares the second run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from malmen.editor import HyperNetworkEditor, Shifts
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.recording.capture import Record
from malmen.settings import HyperSettings

__all__ = ["MetaLoss", "keeping_graphs", "meta_gradient"]


@dataclass(frozen=True)
class MetaLoss:
    """Losses of one meta-training step, each a mean over its facts.

    Where tokens weigh equally (:data:`malmen.lm.batches.LossWeights`), each is a sum over batches.

    Attributes:
        generalisation: L_gen, cross-entropy of the answers to the equivalent tuples.
        locality: L_loc, KL(before ‖ after) at the answers to the unrelated tuples.
        total: L_meta = L_gen + loc_coef · L_loc.
    """

    generalisation: float
    locality: float
    total: float


def meta_gradient(
    editor: HyperNetworkEditor,
    lm: LanguageModel,
    record: Record,
    facts: Sequence[EncodedFact],
    *,
    loc_coef: float = 1.0,
) -> MetaLoss:
    """Add the gradient of the meta loss to ``grad`` of every parameter of the editor.

    Args:
        editor: MALMEN or MEND; its running statistics are used as they are.
        lm: the language model, unedited.
        record: keys and value gradients of the edit tuples of ``facts`` (steps i and ii).
        facts: edited all at once.
        loc_coef: weight of L_loc in L_meta.

    Returns:
        The losses.
    """
    counts = {layer: len(keys) for layer, (keys, _) in record.items()}
    kept = keeping_graphs(counts, at_most=editor.settings.graph_tokens)
    reconciled = {
        layer: editor.reconcile(layer, tokens, keeps_graph=layer in kept)
        for layer, tokens in record.items()
    }  # (iii)
    shifts = {layer: one.shift for layer, one in reconciled.items()}
    loss, shift_gradients = _back_propagate_to_shifts(  # (iv), (v)
        lm, facts, shifts, loc_coef=loc_coef, settings=editor.settings
    )
    for layer, tokens in record.items():
        # Theorems 1 and 2 for MALMEN, a sum of outer products for MEND.
        shifts[layer].backward(shift_gradients[layer].to(shifts[layer].dtype))
        # (vi) only as far as rows are asked for, (vii)
        reconciled[layer].back_propagate(editor.rows(layer, tokens))
    return loss


def keeping_graphs(counts: Mapping[str, int], *, at_most: int) -> set[str]:
    """Return layers whose graphs are kept: together they have no more than so many tokens."""
    kept, room = set(), at_most
    for layer, tokens in counts.items():
        if tokens <= room:
            kept.add(layer)
            room -= tokens
    return kept


def _back_propagate_to_shifts(
    lm: LanguageModel,
    facts: Sequence[EncodedFact],
    shifts: Shifts,
    *,
    loc_coef: float,
    settings: HyperSettings,
) -> tuple[MetaLoss, dict[str, Tensor]]:
    """Return the meta loss of the edited language model, and ∇_S of every layer."""
    weights = lm.edited_weights({layer: shift.detach() for layer, shift in shifts.items()})
    batches = partial(lm.batches, size=settings.fact_batch, loss_weights=settings.loss_weights)
    count = len(facts) if settings.loss_weights == "facts" else 1
    generalisation = locality = 0.0
    for batch in batches([fact.equivalent for fact in facts]):
        with lm.swapped(weights):
            losses = lm.objective.loss(lm.logits(batch), batch.targets)
        loss = (losses * batch.weights.to(losses.dtype)).sum() / count
        loss.backward()
        generalisation += loss.item()
    for batch in batches([fact.unrelated for fact in facts]):
        before = lm.unedited_logits(batch)
        with lm.swapped(weights):
            divergences = lm.objective.divergence(lm.logits(batch), before)
        loss = (divergences * batch.weights.to(divergences.dtype)).sum() / count
        (loc_coef * loss).backward()
        locality += loss.item()
    total = generalisation + loc_coef * locality
    return MetaLoss(generalisation, locality, total), lm.shift_gradients(weights)
