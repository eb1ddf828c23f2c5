"""Where things compute; the GPU of these tests is a ghost that only knows devices and shapes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from ghost_gpu import GPU, GhostGpu
from tiny_models import ARCHITECTURES, random_facts, tiny_entry, tiny_model, tiny_tokenizer

from baselines.fine_tuning import FineTuning
from baselines.mend import MEND
from baselines.ultraedit import UltraEdit
from malmen.editor import HyperNetworkEditor
from malmen.evaluation import edit_and_score
from malmen.lm.device import choose_device
from malmen.lm.language_model import LanguageModel
from malmen.malmen import MALMEN
from malmen.meta_gradient import meta_gradient
from malmen.settings import FineTuningSettings, HyperSettings, TokenSettings
from malmen.support.errors import InputError

SETTINGS = HyperSettings(rank=4, token_batch=8, fact_batch=3, cached="ans")


def ghost_lm(kind: str) -> LanguageModel:
    lm = LanguageModel(
        tiny_model(kind, dtype=torch.bfloat16), tiny_tokenizer(kind), tiny_entry(kind)
    )
    return lm.to(GPU)


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None).type == "cuda"
    assert choose_device("cpu").type == "cpu"
    assert choose_device("cuda:1").index == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None).type == "cpu"


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpu", "unknown device 'gpu'"), ("cuda:2", "2 GPUs can be"), ("meta", "only cpu and cuda")],
)
def test_other_devices_are_refused(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=message):
        choose_device(name)


def test_the_ghost_refuses_what_a_gpu_refuses() -> None:
    with GhostGpu(), pytest.raises(RuntimeError, match="several devices"):
        torch.ones(2, device=GPU) + torch.ones(2)


@pytest.mark.parametrize(
    ("editor", "kind"), [*((MALMEN, kind) for kind in ARCHITECTURES), (MEND, "gpt2")]
)
@pytest.mark.parametrize(  # few tokens in memory, and many in files
    "changes", [{}, {"memory_mb": 0, "cached": "all"}], ids=["few", "many"]
)
def test_a_step_of_meta_training_stays_on_the_gpu(
    editor: type[HyperNetworkEditor], kind: str, changes: dict[str, Any]
) -> None:
    with GhostGpu():
        lm, facts = ghost_lm(kind), random_facts(kind, 6 if changes else 3)
        learner = editor(lm.shapes, replace(SETTINGS, **changes)).to(GPU)
        record = learner.record(lm, facts)
        learner.observe(record)
        meta_gradient(learner, lm, record, facts)
    gradients = [p.grad for p in learner.parameters()]
    assert all(gradient is not None and gradient.device == GPU for gradient in gradients)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "bert"])
def test_editing_and_scoring_stay_on_the_gpu(kind: str) -> None:
    with GhostGpu():
        lm, facts = ghost_lm(kind), random_facts(kind, 3)
        for editor in (
            MALMEN(lm.shapes, SETTINGS).to(GPU).requires_grad_(False),
            UltraEdit(lm.shapes, TokenSettings()),
            FineTuning(FineTuningSettings(epochs=1), seed=0),
        ):
            shifts = editor.edit(lm, facts)
            assert {shift.device for shift in shifts.values()} == {GPU}
            edit_and_score(editor, lm, facts, size=3)
