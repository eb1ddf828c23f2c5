"""MEMIT's first step: the hidden state that makes a language model complete a fact."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from malmen.data.rows import Row, ZsreRow
from malmen.data.subjects import subject_end
from malmen.lm.batches import Example
from malmen.lm.language_model import LanguageModel
from malmen.recording.tails import Tails
from malmen.settings import MemitSettings
from malmen.support.errors import InputError, quoted

__all__ = ["Question", "SubjectPrompt", "optimise_values", "question", "subject_prompt"]

ENOUGH = 0.05
"""Loss below which the value of a fact is left as it is (the released code's constant)."""


@dataclass(frozen=True)
class Question:
    """A fact to be completed: all that its value depends on.

    Attributes:
        prompt: the question.
        answer: what completes it.
        subject: what it is about.
        subject_end: index of the character of ``prompt`` behind the subject.
    """

    prompt: str
    answer: str
    subject: str
    subject_end: int


@dataclass(frozen=True)
class SubjectPrompt:
    """A prompt that names a subject.

    Attributes:
        example: the prompt and its answer, tokenised.
        subject: position of the subject's last token.
    """

    example: Example
    subject: int

    def up_to_subject(self) -> Example:
        """Return the prompt without what follows the subject, which has no influence on it."""
        return Example(self.example.ids[: self.subject + 1], (self.subject,), (0,))


def question(row: Row | None) -> Question:
    """Return what MEMIT takes from a row.

    Raises:
        InputError: the row is no question, or its prompt does not name its subject.
    """
    if not isinstance(row, ZsreRow):
        raise InputError("MEMIT edits facts to be completed (zsRE rows), not claims (FEVER rows)")
    if row.subject is None:
        raise InputError(f"MEMIT needs the subject of {quoted(row.src)}: add the field 'subject'")
    end = subject_end(row.subject, row.src, at=row.subject_at)
    return Question(row.src, row.ans, row.subject, end)


def subject_prompt(lm: LanguageModel, fact: Question, *, context: str = "") -> SubjectPrompt:
    """Tokenise a question behind a context, with its answer, and find its subject."""
    prompt = context + fact.prompt
    end = len(context) + fact.subject_end
    return SubjectPrompt(lm.encode(prompt, fact.answer), _token_before(lm, prompt, end))


def _token_before(lm: LanguageModel, prompt: str, end: int) -> int:
    """Return the position of the token that holds the character before ``end``."""
    spans = lm.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    return max(i for i, (start, stop) in enumerate(spans) if start < min(stop, end))


def optimise_values(
    lm: LanguageModel,
    facts: Sequence[Question],
    contexts: Sequence[str],
    settings: MemitSettings,
    *,
    block: int,
) -> Tensor:
    """Find the value of every fact: the state at its subject's last token, behind a block.

    The values are found side by side; each is what it would be alone. The blocks up to ``block``,
    and the tokens before the subject's last, run once.

    Args:
        lm: the language model, unedited, all blocks present.
        facts: the facts.
        contexts: texts that a fact is written behind, the empty one first.
        settings: hyper-parameters.
        block: the block whose output is optimised.

    Returns:
        z, (facts, h), in at least single precision.
    """
    task = _Task(lm, facts, contexts, settings, block=block)
    delta = torch.zeros_like(task.initial, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.v_learning_rate)
    largest = settings.clamp_factor * task.initial.norm(dim=1)
    is_open = torch.ones_like(largest, dtype=torch.bool)
    with torch.enable_grad(), task.tails.replayed() as logits_with:
        for _ in range(settings.v_steps - 1):  # as released, which also computes the last loss
            losses = task.losses(logits_with(task.states_with(delta)), delta)
            is_open &= losses.detach() >= ENOUGH
            if not is_open.any():
                break
            optimizer.zero_grad()
            losses.sum().backward()
            before = delta.detach().clone()
            optimizer.step()
            with torch.no_grad():
                inside = delta * (largest / delta.norm(dim=1)).clamp(max=1)[:, None]
                delta.copy_(torch.where(is_open[:, None], inside, before))
    return task.initial + delta.detach()


class _Task:
    """What a group of facts is optimised for: every prompt of theirs, in one batch.

    Attributes:
        tails: from the subject on, every fact behind every context, and its "{subject} is a".
        initial: (facts, h), the states that are changed, behind the empty context.
    """

    def __init__(
        self,
        lm: LanguageModel,
        facts: Sequence[Question],
        contexts: Sequence[str],
        settings: MemitSettings,
        *,
        block: int,
    ) -> None:
        self.settings, self.objective, self.contexts = settings, lm.objective, len(contexts)
        prompts: list[SubjectPrompt] = []
        for fact in facts:
            prompts += [subject_prompt(lm, fact, context=context) for context in contexts]
            prompts.append(_essence(lm, fact, at=settings.kl_at))
        [self._batch] = lm.batches([prompt.example for prompt in prompts], size=len(prompts))
        index = torch.empty(len(prompts), dtype=torch.long, device=lm.device)
        index[self._batch.rows] = self._batch.facts  # of each row's prompt: batches are sorted
        subjects = [prompts[i].subject for i in index.tolist()]
        self.tails = Tails(lm, self._batch, block=block, starts=subjects)
        with torch.no_grad(), self.tails.replayed() as logits_with:
            self._before = logits_with(self.tails.states)

        self._fact, kind = index // (self.contexts + 1), index % (self.contexts + 1)
        self._is_essence = (kind == self.contexts)[self._batch.rows]
        states = self.tails.states
        initial = states.new_empty(len(facts), states.shape[1])
        initial[self._fact[kind == 0]] = states[kind == 0]
        self.initial = initial.to(torch.promote_types(states.dtype, torch.float32))

    def states_with(self, delta: Tensor) -> Tensor:
        """Return the states of all prompts, each fact's δ added."""
        return self.tails.states + delta[self._fact]

    def losses(self, logits: Tensor, delta: Tensor) -> Tensor:
        """Return the loss of every fact, (facts,).

        It is the negative log-likelihood of the answer, a mean over contexts and answer tokens; a
        divergence from what the language model says of the subject's essence; and a decay of δ.
        """
        losses = self.objective.loss(logits, self._batch.targets)
        losses = losses * self._batch.weights.to(losses.dtype) / self.contexts
        essence = self._is_essence
        after, before = logits[essence], self._before[essence]
        if self.settings.kl_direction == "before_after":
            divergences = self.objective.divergence(after, before)
        else:
            divergences = self.objective.divergence(before, after)
        losses = losses.index_put((essence,), self.settings.kl_factor * divergences)
        decay = self.settings.v_weight_decay * delta.norm(dim=1) / self.initial.norm(dim=1).square()
        return decay.index_add(0, self._fact[self._batch.rows], losses.to(decay.dtype))


def _essence(
    lm: LanguageModel, fact: Question, *, at: Literal["subject", "essence"]
) -> SubjectPrompt:
    text = f"{fact.subject} is a"
    ids = tuple(lm.tokenizer(text)["input_ids"])
    subject = _token_before(lm, text, len(fact.subject))
    prompt = SubjectPrompt(Example(ids, (len(ids) - 1,), (0,)), subject)
    return SubjectPrompt(prompt.up_to_subject(), subject) if at == "subject" else prompt
