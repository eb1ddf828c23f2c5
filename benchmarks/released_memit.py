"""MEMIT as released: the side that ours is compared with, and whose values are timed beside.

It is written from the specification alone and takes nothing from the suite but two classes of
data. Values are found one fact at a time; a step runs all blocks over all prompts of the fact, and
takes the vocabulary's logits at all positions twice, once in the model itself and once from the
last block's states.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from baselines.memit_values import Question
from malmen.settings import MemitSettings

__all__ = ["ReleasedMemit"]

ENOUGH = 5e-2
"""Loss below which a value is good enough."""


@dataclass(frozen=True)
class ReleasedMemit:
    """MEMIT on a decoder of its own, whose weights it leaves as they were.

    Attributes:
        model: the language model.
        tokenizer: its tokenizer.
        layers: names of the edited layers, from the lowest.
        blocks: name of the list of blocks; ``norm`` of what stands between the last and the head.
        settings: hyper-parameters.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: Sequence[str]
    settings: MemitSettings
    blocks: str = "transformer.h"
    norm: str = "transformer.ln_f"

    @property
    def top(self) -> int:
        """Index of the last edited block, behind which values are."""
        return int(self.layers[-1].removeprefix(f"{self.blocks}.").split(".")[0])

    def shifts(
        self, facts: Sequence[Question], contexts: Sequence[str], covariances: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the shift (d', d) of every layer.

        Args:
            facts: written all at once.
            contexts: texts in front, the empty one first.
            covariances: C (d, d) of every layer.
        """
        values = torch.stack([self.value(fact, contexts) for fact in facts], dim=1)
        originals = {name: self._weight(name).detach().clone() for name in self.layers}
        shifts = {}
        for done, name in enumerate(self.layers):
            keys = torch.stack([self._key(name, fact, contexts) for fact in facts], dim=1)
            states = torch.stack([self._state(fact) for fact in facts], dim=1)
            residuals = (values - states) / (len(self.layers) - done)
            system = self.settings.covariance_weight * covariances[name] + keys @ keys.T
            shifts[name] = residuals @ torch.linalg.solve(system, keys).T
            self._weight(name).data.add_(self._oriented(name, shifts[name]))
        for name, original in originals.items():
            self._weight(name).data.copy_(original)
        return shifts

    def value(self, fact: Question, contexts: Sequence[str]) -> Tensor:
        """Find z (h,) of a fact: the state at its subject's last token, behind the top block."""
        settings, prompts = self.settings, self._prompts(fact, contexts)
        width, model = self.model.config.hidden_size, self.model
        delta = torch.zeros(width, dtype=model.dtype, device=model.device, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=settings.v_learning_rate)
        before: Tensor | None = None
        with self._changed(prompts.subjects, delta) as states:
            for step in range(settings.v_steps):
                optimizer.zero_grad()
                logits = model(
                    input_ids=prompts.ids, attention_mask=prompts.mask, use_cache=False
                ).logits
                at = prompts.subjects[-1] if settings.kl_at == "subject" else prompts.last
                essence = logits[-1, at].log_softmax(-1)
                before = essence.detach() if before is None else before
                kl = F.kl_div(before, essence, reduction="sum", log_target=True)  # after, before
                if settings.kl_direction == "before_after":
                    kl = F.kl_div(essence, before, reduction="sum", log_target=True)
                size = states["initial"].norm()
                loss = (
                    self._likelihood_loss(states["last"][:-1], prompts.targets)
                    + settings.kl_factor * kl
                    + settings.v_weight_decay * delta.norm() / size**2
                )
                if loss < ENOUGH or step == settings.v_steps - 1:
                    break
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    if delta.norm() > settings.clamp_factor * size:
                        delta.mul_(settings.clamp_factor * size / delta.norm())
        return states["initial"] + delta.detach()

    def _prompts(self, fact: Question, contexts: Sequence[str]) -> "_Prompts":
        answer = self._ids(" " + fact.answer.strip(), special=False)
        stem = fact.prompt[: fact.subject_end]
        starts = [self._ids(context + fact.prompt) for context in contexts]
        rows = [*(torch.cat([start, answer[:-1]]) for start in starts)]
        rows.append(self._ids(f"{fact.subject} is a"))
        subjects = [len(self._ids(context + stem)) - 1 for context in contexts]
        subjects.append(len(self._ids(fact.subject)) - 1)
        ids = pad_sequence(rows, batch_first=True)
        targets = torch.full_like(ids[:-1], -1)
        for row, start in zip(targets, starts, strict=True):
            row[len(start) - 1 : len(start) - 1 + len(answer)] = answer
        device = self.model.device
        return _Prompts(
            ids.to(device),
            pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device),
            torch.tensor(subjects, device=device),
            targets.to(device),
            last=len(rows[-1]) - 1,
        )

    def _ids(self, text: str, *, special: bool = True) -> Tensor:
        ids = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)

    def _likelihood_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood of the answers, a mean over prompts and tokens."""
        head = self.model.get_output_embeddings()
        logits = F.linear(self.model.get_submodule(self.norm)(states), head.weight, head.bias)
        picked = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
        is_answer = targets >= 0
        return (-(picked * is_answer).sum(1) / is_answer.sum(1)).mean()

    @torch.no_grad()
    def _key(self, name: str, fact: Question, contexts: Sequence[str]) -> Tensor:
        """Return the key of a fact, (d,): the mean of the empty context's and the others' mean."""
        keys = []
        for context in contexts:
            ids = self._ids(context + fact.prompt[: fact.subject_end])
            keys.append(self._run(ids, name)[0][-1])
        kinds = [keys[0]] + ([torch.stack(keys[1:]).mean(0)] if keys[1:] else [])
        return torch.stack(kinds).mean(0)

    @torch.no_grad()
    def _state(self, fact: Question) -> Tensor:
        """Return the state (h,) behind the top block at a fact's subject."""
        ids = self._ids(fact.prompt[: fact.subject_end])
        return self._run(ids, f"{self.blocks}.{self.top}")[1][-1]

    def _run(self, ids: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Run a prompt; return what enters and what leaves a module, (t, …)."""
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen.append((args[0][0], _states(output)[0]))

        handle = self.model.get_submodule(name).register_forward_hook(keep)
        self.model(input_ids=ids[None].to(self.model.device), use_cache=False)
        handle.remove()
        return seen[0]

    @contextmanager
    def _changed(self, subjects: Tensor, delta: Tensor) -> Iterator[dict[str, Tensor]]:
        """Add δ behind the top block, at the subjects' last tokens.

        Yields:
            What was seen in the last run: "initial" (h,), the state that δ is added to behind the
            first context, and "last" (b, t, h), the last block's states.
        """
        rows = torch.arange(len(subjects), device=subjects.device)
        seen: dict[str, Tensor] = {}

        def add(module: nn.Module, args: Any, output: Any) -> Any:
            states = _states(output).clone()
            seen["initial"] = states[0, subjects[0]].clone()
            states[rows, subjects] += delta
            return (states, *output[1:]) if isinstance(output, tuple) else states

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            seen["last"] = _states(output)

        blocks = self.model.get_submodule(self.blocks)
        assert isinstance(blocks, nn.ModuleList)
        handles = [
            blocks[self.top].register_forward_hook(add),
            blocks[-1].register_forward_hook(keep),
        ]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _weight(self, name: str) -> Tensor:
        weight = self.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        return weight

    def _oriented(self, name: str, shift: Tensor) -> Tensor:
        return shift.T if isinstance(self.model.get_submodule(name), Conv1D) else shift


@dataclass(frozen=True)
class _Prompts:
    """The fact behind every context, and last its "{subject} is a".

    Attributes:
        ids: (contexts + 1, t), padded on the right.
        mask: (contexts + 1, t), 1 where a token is.
        subjects: (contexts + 1,) position of the subject's last token.
        targets: (contexts, t), the answer's token where one is predicted, else -1.
        last: position of the last token of "{subject} is a".
    """

    ids: Tensor
    mask: Tensor
    subjects: Tensor
    targets: Tensor
    last: int


def _states(output: Any) -> Tensor:
    states = output[0] if isinstance(output, tuple) else output
    assert isinstance(states, Tensor)
    return states
