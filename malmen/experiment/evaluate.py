"""An evaluation: which editor edits at each count, and what is written of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from malmen.data.raw_rows import write_json_lines
from malmen.editor import Editor
from malmen.evaluation import check_pool
from malmen.evaluation import evaluate as score
from malmen.experiment.cards import Card
from malmen.experiment.editors import load_editor, training_of
from malmen.experiment.loading import encode, load
from malmen.experiment.options import Evaluating
from malmen.experiment.provenance import ATTRIBUTIONS, run_metadata
from malmen.interview import Interview
from malmen.lm.catalogue import lookup
from malmen.lm.language_model import LanguageModel
from malmen.results import per_fact
from malmen.support.errors import InputError, choose

__all__ = ["Statistics", "evaluate"]

Statistics = Callable[[Path, LanguageModel], Any]
"""Reads statistics of keys. So only the digests of editors that need them cover their code."""


def evaluate(
    options: Evaluating, card: Card, settings: Any | None, *, statistics: Statistics
) -> None:
    """Edit disjoint sets of facts at every count, score every fact, and write what was found.

    Args:
        options: What it is evaluated on, and from which files into which.
        card: The editor's.
        settings: Its hyper-parameters; None if it is trained, and brings its own.
        statistics: Reads statistics of keys, for editors that need them.

    Raises:
        InputError: Something does not fit: counts and rows, or an editor and the language model.
    """
    data = [choose(ATTRIBUTIONS, key, "data") for key in options.data]
    if not options.edits:
        raise InputError("--edits: name at least one number")
    load_model = partial(
        load,
        options.lm,
        options.weights,
        modules=card.modules or options.modules,
        precision=getattr(settings, "precision", "stored"),
        device=options.device,
    )
    model = load_model(prefixes=[] if options.prefix is None else [options.prefix])
    facts = encode(model, options.rows, seed=options.seed)
    check_pool(options.edits, sets=options.sets, pool=len(facts))
    choices: dict[str, Any] = {"sets": options.sets, "modules": options.modules}
    editors: Mapping[int, Editor]
    trainings: dict[str, Any] = {}
    if settings is None:
        files = _trained_files(card, options.edits, options.trained)
        loaded = {path: load_editor(path, model, card) for path in set(files.values())}
        editors = {count: loaded[path] for count, path in files.items()}
        choices |= {"trained": options.trained}
        trainings = {str(count): training_of(path) for count, path in files.items()}
    else:
        offered = {"layers": model.shapes, "settings": settings, "seed": options.seed}
        if card.statistics:
            offered["statistics"] = _statistics(card, model, options.statistics, statistics)
        editors = dict.fromkeys(options.edits, card.build(**offered))
        choices |= asdict(settings)
    interview = None
    if options.asked and model.entry.task == "completion":
        # What it writes passes through all blocks, the frozen ones too.
        whole = model if options.prefix is None else load_model()
        interview = Interview(whole, facts=options.asked, chat=options.chat)
        choices |= {"asked": options.asked, "chat": options.chat}
    evaluation = score(
        editors,
        model,
        facts,
        counts=options.edits,
        sets=options.sets,
        size=options.fact_batch,
        interview=interview,
    )
    metadata = run_metadata(
        seed=options.seed,
        settings=choices,
        started=options.started,
        data=[*lookup(options.lm).attributions, *data],
    )
    alone = f" trained at {options.trained[0].rpartition('@')[2]}" if options.trained_alone else ""
    name = card.title + alone
    frame = evaluation.scores.assign(editor=name, lm=options.lm, seed=options.seed)
    metadata |= {"editing": evaluation.editing, "trainings": trainings}
    per_fact.write(options.out, frame, metadata)
    if evaluation.exchanges:
        write_json_lines(options.out.with_suffix(".answers.jsonl"), evaluation.exchanges)


def _statistics(card: Card, model: LanguageModel, path: Path | None, read: Statistics) -> Any:
    if path is None:
        raise InputError(
            f"--statistics: {card.title} needs them; `malmen key-statistics` makes them"
        )
    return read(path, model)


def _trained_files(card: Card, counts: Sequence[int], trained: Sequence[str]) -> dict[int, Path]:
    """Return for every count the editor trained at the nearest from above, or at the largest."""
    files: dict[int, Path] = {}
    for item in trained:
        path, _, count = item.rpartition("@")
        if not path or not count.isdigit():
            raise InputError(f"--trained {item}: write FILE@COUNT")
        files[int(count)] = Path(path)
    if not files:
        raise InputError(f"--trained: {card.name} has to be trained first, with `malmen train`")
    return {m: files[min((c for c in files if c >= m), default=max(files))] for m in counts}
