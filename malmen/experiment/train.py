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

    The arguments are the options of `malmen train`, and besides: ``started``, `time.perf_counter()`
    when the command began, and ``announce``, which is called before anything is trained.

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
