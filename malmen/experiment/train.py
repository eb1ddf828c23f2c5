"""A meta-training: what it starts from, and what it leaves."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from malmen.editor import HyperNetworkEditor
from malmen.experiment.cards import Card
from malmen.experiment.editors import load_editor, save_editor
from malmen.experiment.loading import encode, load
from malmen.experiment.provenance import run_metadata
from malmen.lm.catalogue import Modules
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.settings import HyperSettings, TrainingSettings
from malmen.support.errors import InputError
from malmen.support.files import atomic, digest, write_json
from malmen.training import MetaTraining

__all__ = ["train"]


def train(
    *,
    card: Card,
    settings: HyperSettings,
    training: TrainingSettings,
    lm: str,
    weights: Path,
    rows: Path,
    validation_rows: Path,
    edits: int,
    steps: int,
    out: Path,
    prefix: Path | None,
    validation_prefix: Path | None,
    init: Path | None,
    moments: Path | None,
    modules: Modules,
    seed: int,
    device: str | None,
    started: float,
    announce: Callable[[LanguageModel, list[EncodedFact]], None],
) -> None:
    """Meta-train an editor, and write it; a killed run continues where it was.

    Args:
        card: The editor's.
        settings: Its hyper-parameters.
        training: Those of its training.
        lm: Name in the catalogue.
        weights: Folder of the model.
        rows: Meta-training rows.
        validation_rows: Rows for the periodic evaluation.
        edits: Facts edited at once in every step.
        steps: Number of steps.
        out: The editor, safetensors; run metadata, losses and Adam's moments stand beside it.
        prefix: Stored states of the meta-training rows, or None to run the frozen blocks again.
        validation_prefix: The same of the validation rows.
        init: Editor to start from, or None.
        moments: Adam's moments of that editor, or None to start at zero.
        modules: Which of the catalogue's choices of modules are edited.
        seed: Of initial weights and the order of facts.
        device: Where to compute; a GPU unless there is none.
        started: `time.perf_counter()` when the command began.
        announce: Called before anything is trained, with the language model and the facts.

    Raises:
        InputError: Something does not fit: counts and rows, or an editor and the language model.
    """
    prefixes = [path for path in (prefix, validation_prefix) if path is not None]
    model = load(lm, weights, prefixes=prefixes, modules=modules, device=device)
    torch.manual_seed(seed)
    learner = _learner(card, model, settings, init=init)
    choices = {
        "editor": card.name,
        "lm": lm,
        "edits": edits,
        "steps": steps,
        "modules": modules,
        "seed": seed,
        **asdict(settings),
        **asdict(training),
    }
    inputs = [digest(path) for path in (rows, prefix, init, moments) if path is not None]
    name = f"{out.stem}-{digest(choices, inputs)}.safetensors"
    facts = encode(model, rows, seed=seed)
    announce(model, facts)
    run = MetaTraining(
        learner,
        model,
        facts,
        encode(model, validation_rows, seed=seed),
        edits=edits,
        steps=steps,
        settings=training,
        seed=seed,
        checkpoint=out.parent / ".checkpoints" / name,
    )
    if moments is not None:
        run.continue_from(moments)
    log = run.run()
    with atomic(out.with_suffix(".csv")) as temporary:
        pd.DataFrame(log).to_csv(temporary, index=False)
    write_json(out.with_suffix(".json"), run_metadata(seed=seed, settings=choices, started=started))
    run.save_moments(out.with_suffix(".adam.safetensors"))
    save_editor(out, learner, lm=lm)
    run.forget()


def _learner(
    card: Card, model: LanguageModel, settings: HyperSettings, *, init: Path | None
) -> HyperNetworkEditor:
    """Return the editor that is trained, with the weights of the one it starts from."""
    built: HyperNetworkEditor = card.build(layers=model.shapes, settings=settings)
    learner = built.to(model.device)
    if init is not None:
        start = load_editor(init, model, card)
        if (start.settings.rank, start.settings.n_blocks) != (settings.rank, settings.n_blocks):
            raise InputError(f"{init}: its rank or n_blocks differs ({start.settings})")
        learner.load_state_dict(start.state_dict())
    return learner
