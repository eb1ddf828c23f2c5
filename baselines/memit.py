"""MEMIT: values found by optimisation, written into several layers by least squares."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from baselines.key_statistics import KeyStatistics
from baselines.memit_values import (
    Question,
    SubjectPrompt,
    optimise_values,
    question,
    subject_prompt,
)
from malmen.editor import Remembering, Shifts
from malmen.lm.blocks import block_of, inputs_of, run_through
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.lm.sampling import sample_texts
from malmen.normal_equation import Metric, parameter_shift
from malmen.settings import MemitSettings
from malmen.support.errors import InputError
from malmen.support.progress import Progress

__all__ = ["MEMIT", "sample_contexts"]

STARTS = ("The", "Therefore", "Because", "I", "You")
"""First words of the sampled contexts (the released code's)."""


@dataclass
class _Remembered:
    """What a language model's unedited weights decide alone.

    Attributes:
        contexts: texts that facts are written behind, the empty one first.
        values: value of a fact, and the seconds that it took.
    """

    contexts: list[str]
    values: dict[Question, tuple[Tensor, float]] = field(default_factory=dict)


def sample_contexts(lm: LanguageModel, settings: MemitSettings, *, seed: int) -> list[str]:
    """Return the contexts that facts are written behind, the empty one first."""
    sampled = sample_texts(
        lm,
        [STARTS[i % len(STARTS)] for i in range(settings.contexts - 1)],
        length=settings.context_length,
        seed=seed,
        top_k=settings.context_top_k,
        counts_start=True,
        progress=False,
    )
    return ["", *(f"{text}. " for text in sampled)]


class MEMIT(Remembering):
    """Mass-editing memory in a transformer (Meng et al., ICLR 2023).

    For every fact, the value z is the state behind the last edited block, at the subject's last
    token, that makes the language model complete it. The layers then share the way there: from the
    lowest, Δ = R Kᵀ (λC + KKᵀ)⁻¹, where K are the layer's keys at the subjects' last tokens, R is
    what the states still lack divided by the number of layers left, and C is the covariance of
    keys in ordinary text.

    The value of a fact depends on no other fact, so it is found once for a language model and
    remembered. An edit is then faster than it would be alone, and :attr:`remembered_seconds` says
    by how much.

    Args:
        settings: hyper-parameters.
        statistics: of the keys of the layers edited.
        seed: of the sampled contexts.
    """

    def __init__(self, settings: MemitSettings, statistics: KeyStatistics, *, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.remembered_seconds = 0.0  # that values known at the last edit took to be found
        self._factor = cache(statistics.factor)
        self._memories: WeakKeyDictionary[LanguageModel, _Remembered] = WeakKeyDictionary()

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the shifts that write all ``facts`` at once.

        Args:
            lm: the language model, unedited, all blocks present; its layers are edited from the
                first to the last.
            facts: facts to be completed, each of a row that names its subject.

        Returns:
            The shift of every layer, in double precision, in the host's memory.

        Raises:
            InputError: a fact is to be judged, or its prompt does not name its subject.
        """
        questions = _questions(facts)
        memory = self._memory(lm)
        prompts = [
            subject_prompt(lm, fact, context=context)
            for fact in questions
            for context in memory.contexts
        ]
        return self._spread(lm, prompts, self._values(lm, questions, memory))

    def check(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> None:
        """Refuse facts that cannot be edited, before the first value is found.

        Raises:
            InputError: as :meth:`edit`; or a fact is too long behind one of the contexts.
        """
        for fact in _questions(facts):
            for context in self._memory(lm).contexts:
                subject_prompt(lm, fact, context=context)

    def _memory(self, lm: LanguageModel) -> _Remembered:
        if lm not in self._memories:
            self._memories[lm] = _Remembered(sample_contexts(lm, self.settings, seed=self.seed))
        return self._memories[lm]

    def _values(self, lm: LanguageModel, facts: Sequence[Question], memory: _Remembered) -> Tensor:
        """Return the values of the facts, (facts, h), remembering all of them."""
        block = block_of(lm, list(lm.layers)[-1])
        distinct = dict.fromkeys(facts)
        known = [memory.values[fact] for fact in distinct if fact in memory.values]
        self.remembered_seconds = sum(seconds for _, seconds in known)
        new = [fact for fact in distinct if fact not in memory.values]
        new.sort(key=lambda fact: len(fact.prompt))  # like lengths together: little padding
        stage = f"values of facts for {lm.entry.title}"
        with Progress(stage, total=len(new), unit="facts", show=bool(new)) as bar:
            remaining = iter(new)
            while group := list(islice(remaining, self.settings.fact_batch)):
                started = time.perf_counter()
                values = optimise_values(lm, group, memory.contexts, self.settings, block=block)
                seconds = (time.perf_counter() - started) / len(group)
                memory.values |= {
                    fact: (value, seconds) for fact, value in zip(group, values, strict=True)
                }
                bar.update(len(group))
        return torch.stack([memory.values[fact][0] for fact in facts])

    @torch.no_grad()
    def _spread(
        self, lm: LanguageModel, prompts: Sequence[SubjectPrompt], values: Tensor
    ) -> Shifts:
        """Write the values into the layers one after another.

        The equation is solved in the host's memory, where the covariances are: it takes more room
        than the language model, and few GPUs are fast in double precision.
        """
        shifts: dict[str, Tensor] = {}
        lam = torch.tensor(self.settings.covariance_weight, dtype=torch.float64)
        for written, layer in enumerate(lm.layers):
            keys, states = self._record(lm, prompts, layer, shifts)
            residuals = (values.double() - states) / (len(lm.layers) - written)
            shifts[layer] = parameter_shift(
                keys.T.cpu(), residuals.T.cpu(), lam, penalty=Metric(self._factor(layer))
            )
        return shifts

    def _record(
        self, lm: LanguageModel, prompts: Sequence[SubjectPrompt], layer: str, shifts: Shifts
    ) -> tuple[Tensor, Tensor]:
        """Return keys of a layer and states behind the last edited block, both under ``shifts``.

        Returns:
            (facts, d), a mean over contexts, and (facts, h), behind the empty context; in double
            precision.
        """
        examples = [prompt.up_to_subject() for prompt in prompts]
        block = block_of(lm, list(lm.layers)[-1])
        keys, states, order = [], [], []
        with lm.swapped(lm.edited_weights(shifts)), inputs_of(lm, [layer]) as inputs:
            for batch in lm.batches(
                examples, size=self.settings.contexts * self.settings.fact_batch
            ):
                output = run_through(lm, batch, block)
                keys.append(inputs[layer][batch.answers].double())
                states.append(output.states[batch.rows, batch.columns].double())
                order.append(batch.facts)
        back = torch.cat(order).argsort()
        by_context = (-1, self.settings.contexts)
        means = _context_mean(torch.cat(keys)[back].unflatten(0, by_context))
        return means, torch.cat(states)[back].unflatten(0, by_context)[:, 0]


def _questions(facts: Sequence[EncodedFact]) -> list[Question]:
    """Return what MEMIT takes from facts, or refuse all that it cannot edit."""
    found, refused = [], []
    for number, fact in enumerate(facts, start=1):
        try:
            found.append(question(fact.row))
        except InputError as error:
            where = (fact.row.where if fact.row else "") or f"row {number}"
            refused.append(f"{where}: {error}")
    if refused:
        more = f"; and {len(refused) - 1} more rows" if len(refused) > 1 else ""
        raise InputError(f"{refused[0]}{more} (`malmen data check` lists them)")
    return found


def _context_mean(keys: Tensor) -> Tensor:
    """Return the mean over contexts of keys (facts, contexts, d).

    The empty context weighs as much as all sampled ones together (the released code averages
    contexts of a kind first, then the kinds).
    """
    if keys.shape[1] == 1:
        return keys[:, 0]
    return (keys[:, 0] + keys[:, 1:].mean(dim=1)) / 2
