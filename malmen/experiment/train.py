"""A meta-training: what it starts from, and what it leaves."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from malmen.editor import HyperNetworkEditor
from malmen.experiment.cards import Card, trained
from malmen.experiment.editors import load_editor, save_editor
from malmen.experiment.loading import encode, load
from malmen.experiment.options import Training
from malmen.experiment.provenance import run_metadata
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.settings import HyperSettings, TrainingSettings
from malmen.support.errors import InputError, choose
from malmen.support.files import atomic, digest, write_json
from malmen.training import MetaTraining

__all__ = ["train"]


def train(
    options: Training,
    card: Card,
    settings: HyperSettings,
    training: TrainingSettings,
    *,
    announce: Callable[[LanguageModel, list[EncodedFact]], None],
) -> None:
    """Meta-train an editor, and write it; a killed run continues where it was.

    Args:
        options: What it is trained with, and from which files into which.
        card: The editor's.
        settings: Its hyper-parameters.
        training: Those of its training.
        announce: Called before anything is trained, with the language model and the facts.

    Raises:
        InputError: Something does not fit: counts and rows, or an editor and the language model.
    """
    choose(trained(), card.name, "editor")
    if (options.prefix is None) != (options.validation_prefix is None):
        raise InputError("--prefix and --validation-prefix: give both or neither")
    model = load(
        options.lm,
        options.weights,
        prefixes=[path for path in (options.prefix, options.validation_prefix) if path],
        modules=options.modules,
        device=options.device,
    )
    out, seed = options.out, options.seed
    torch.manual_seed(seed)
    learner = _learner(card, model, settings, init=options.init)
    choices = {
        "editor": card.name,
        **{key: getattr(options, key) for key in ("lm", "edits", "steps", "modules", "seed")},
        **asdict(settings),
        **asdict(training),
    }
    files = (options.rows, options.prefix, options.init, options.moments)
    inputs = [digest(path) for path in files if path is not None]
    name = f"{out.stem}-{digest(choices, inputs)}.safetensors"
    facts = encode(model, options.rows, seed=seed)
    announce(model, facts)
    run = MetaTraining(
        learner,
        model,
        facts,
        encode(model, options.validation_rows, seed=seed),
        edits=options.edits,
        steps=options.steps,
        settings=training,
        seed=seed,
        checkpoint=out.parent / ".checkpoints" / name,
    )
    if options.moments is not None:
        run.continue_from(options.moments)
    log = run.run()
    with atomic(out.with_suffix(".csv")) as temporary:
        pd.DataFrame(log).to_csv(temporary, index=False)
    metadata = run_metadata(seed=options.seed, settings=choices, started=options.started)
    ended = {"edits": options.edits, **asdict(run.ending)}
    write_json(out.with_suffix(".json"), metadata | {"training": ended})
    run.save_moments(out.with_suffix(".adam.safetensors"))
    save_editor(out, learner, lm=options.lm, training=ended)
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
