"""What a language model answers before and after an edit, for people to read."""

from collections.abc import Sequence
from typing import Any

import torch

from malmen.data.rows import ZsreRow, read_rows
from malmen.editor import Editor
from malmen.evaluation import check_pool, finite_shifts
from malmen.experiment.editors import load_editor
from malmen.experiment.loading import load
from malmen.experiment.options import Answering
from malmen.lm.catalogue import lookup
from malmen.lm.encoding import encode_rows
from malmen.lm.kinds import EncoderDecoder
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError
from malmen.support.files import write_json

__all__ = ["answer", "before_and_after"]


def answer(options: Answering) -> None:
    """Edit the first rows in at once, and write the answers before and after.

    Raises:
        InputError: The language model answers no prompts, or something does not fit.
    """
    if lookup(options.lm).task != "completion":
        raise InputError(f"{options.lm} judges claims, it answers no prompts")
    rows = read_rows(options.rows, "completion")
    check_pool([options.edits], sets=1, pool=len(rows))
    model = load(options.lm, options.weights, device=options.device)
    editor = load_editor(options.trained, model)
    write_json(
        options.out, before_and_after(editor, model, rows[: options.edits], show=options.show)
    )


def before_and_after(
    editor: Editor, lm: LanguageModel, rows: Sequence[ZsreRow], *, show: int
) -> list[dict[str, Any]]:
    """Edit all rows in at once, and answer the prompts of the first ``show`` by greedy decoding.

    Returns:
        For each shown fact an edit, a paraphrase and an unrelated prompt, each with its target and
        the answers before and after; the subject is empty where the row names none.
    """
    prompts: list[dict[str, Any]] = [
        {"fact": i, "subject": row.subject or "", "kind": kind, "prompt": prompt, "target": target}
        for i, row in enumerate(rows[:show])
        for kind, prompt, target in (
            ("edit", row.src, row.ans),
            ("paraphrase", row.rephrase[0], row.ans),
            ("unrelated", row.loc, row.loc_ans),
        )
    ]
    shifts = finite_shifts(editor, lm, encode_rows(lm, rows, seed=0))
    weights = lm.edited_weights(shifts)
    for prompt in prompts:
        prompt["before"] = _answer(lm, prompt["prompt"], prompt["target"])
        with lm.swapped(weights):
            prompt["after"] = _answer(lm, prompt["prompt"], prompt["target"])
    return prompts


@torch.no_grad()
def _answer(lm: LanguageModel, prompt: str, target: str) -> str:
    """Decode greedily as many tokens as the target has."""
    inputs = lm.tokenizer(prompt, return_tensors="pt").to(lm.device)
    length = len(lm.encode(prompt, target).targets)
    generated = lm.model.generate(
        **inputs, max_new_tokens=length, do_sample=False, pad_token_id=lm.tokenizer.pad_token_id
    )
    start = 1 if isinstance(lm.kind, EncoderDecoder) else inputs["input_ids"].shape[1]
    tokens = generated[0, start:]
    return str(lm.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
