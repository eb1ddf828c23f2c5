"""MEMIT's values as released: one fact at a time, and the whole language model at every step.

A step runs all blocks over all prompts of the fact, and takes the vocabulary's logits at all
positions twice, once in the model itself and once from the last block's states. Where the released
code differs in numbers from ours, this follows ours: the divergence is KL(before ‖ after) where
"{subject} is a" is to be continued, and the last step moves δ too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from baselines.memit_values import ENOUGH, Question, subject_prompt
from malmen.models.blocks import BlockOutput, blocks_of
from malmen.models.language_model import LanguageModel
from malmen.settings import MemitSettings

__all__ = ["optimise_value"]

NORM = "transformer.ln_f"
"""What stands between the last block and the head, in GPT-2 and in GPT-J."""


def optimise_value(
    lm: LanguageModel,
    fact: Question,
    contexts: Sequence[str],
    settings: MemitSettings,
    *,
    block: int,
) -> Tensor:
    """Find the value of one fact: the state at its subject's last token, behind a block.

    Args:
        lm: a GPT-2 or GPT-J, unedited, all blocks present.
        fact: the fact.
        contexts: prefixes that the fact is written behind, the empty one first.
        settings: hyper-parameters.
        block: the block whose output is optimised; not the last.

    Returns:
        z, (h,).
    """
    prompts = _Prompts.of(lm, fact, contexts)
    width, dtype = lm.model.config.n_embd, lm.model.dtype
    delta = torch.zeros(width, dtype=dtype, device=lm.device, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.v_learning_rate)
    before: Tensor | None = None
    with _hooked(lm, block, prompts.subjects, delta) as states:
        for _ in range(settings.v_steps):
            optimizer.zero_grad()
            logits = lm.model(
                input_ids=prompts.ids, attention_mask=prompts.mask, use_cache=False
            ).logits
            essence = logits[-1, prompts.essence_end].log_softmax(-1)
            before = essence.detach() if before is None else before
            size = states["initial"].norm()
            loss = (
                _likelihood_loss(lm, states["last"][:-1], prompts.targets)
                + settings.kl_factor * F.kl_div(essence, before, reduction="sum", log_target=True)
                + settings.v_weight_decay * delta.norm() / size**2
            )
            if loss < ENOUGH:
                break
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                if delta.norm() > settings.clamp_factor * size:
                    delta.mul_(settings.clamp_factor * size / delta.norm())
    return states["initial"] + delta.detach()


@dataclass(frozen=True)
class _Prompts:
    """The fact behind every context, and last its "{subject} is a".

    Attributes:
        ids: (contexts + 1, t), padded on the right.
        mask: (contexts + 1, t), 1 where a token is.
        subjects: (contexts + 1,) position of the subject's last token.
        targets: (contexts, t), the answer's token where one is predicted, else -1.
        essence_end: position of the last token of "{subject} is a".
    """

    ids: Tensor
    mask: Tensor
    subjects: Tensor
    targets: Tensor
    essence_end: int

    @classmethod
    def of(cls, lm: LanguageModel, fact: Question, contexts: Sequence[str]) -> "_Prompts":
        prompts = [subject_prompt(lm, fact, context=context) for context in contexts]
        text = f"{fact.subject} is a"
        essence = torch.tensor(lm.tokenizer(text)["input_ids"])
        named = Question(text, fact.answer, fact.subject, len(fact.subject))
        subjects = [p.subject for p in (*prompts, subject_prompt(lm, named))]
        rows = [*(torch.tensor(p.example.ids) for p in prompts), essence]
        ids = pad_sequence(rows, batch_first=True)
        targets = torch.full_like(ids[:-1], -1)
        for row, prompt in zip(targets, prompts, strict=True):
            row[list(prompt.example.positions)] = torch.tensor(prompt.example.targets)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return cls(
            ids.to(lm.device),
            mask.to(lm.device),
            torch.tensor(subjects, device=lm.device),
            targets.to(lm.device),
            essence_end=len(essence) - 1,
        )


def _likelihood_loss(lm: LanguageModel, states: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of the answers, a mean over prompts and their tokens."""
    head = lm.model.get_output_embeddings()
    logits = F.linear(lm.model.get_submodule(NORM)(states), head.weight, head.bias)
    picked = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    is_answer = targets >= 0
    return (-(picked * is_answer).sum(1) / is_answer.sum(1)).mean()


@contextmanager
def _hooked(
    lm: LanguageModel, block: int, subjects: Tensor, delta: Tensor
) -> Iterator[dict[str, Tensor]]:
    """Add δ behind a block, at the subjects' last tokens.

    Yields:
        What was seen in the last run: "initial" (h,), the state that δ is added to behind the
        first context, and "last" (b, t, h), the last block's states.
    """
    rows = torch.arange(len(subjects), device=lm.device)
    seen: dict[str, Tensor] = {}

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        output = BlockOutput(output)
        states = output.states.clone()
        seen["initial"] = states[0, subjects[0]].clone()
        states[rows, subjects] += delta
        return output.replaced(states)

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen["last"] = BlockOutput(output).states

    blocks = blocks_of(lm)
    handles = [
        blocks[block].register_forward_hook(add),
        blocks[-1].register_forward_hook(keep),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
