"""An evaluation: which editor edits at each count, and what is written of it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from malmen.editor import Editor
from malmen.evaluation import check_pool
from malmen.evaluation import evaluate as score
from malmen.experiment.cards import Card
from malmen.experiment.editors import load_editor
from malmen.experiment.loading import encode, load
from malmen.experiment.provenance import run_metadata
from malmen.lm.catalogue import Modules
from malmen.lm.language_model import LanguageModel
from malmen.results import per_fact
from malmen.support.errors import InputError

__all__ = ["Statistics", "evaluate"]

Statistics = Callable[[LanguageModel], Any]
"""Reads statistics of keys. So only the digests of editors that need them cover their code."""


def evaluate(
    *,
    card: Card,
    settings: Any | None,
    lm: str,
    weights: Path,
    rows: Path,
    edits: Sequence[int],
    sets: int,
    out: Path,
    prefix: Path | None,
    trained: Sequence[str],
    modules: Modules,
    statistics: Statistics | None,
    data: Sequence[str],
    seed: int,
    fact_batch: int,
    device: str | None,
    started: float,
) -> None:
    """Edit disjoint sets of facts at every count, score every fact, and write what was found.

    The arguments are the options of `malmen evaluate`, but for these: ``settings`` are None if the
    editor is trained, and brings its own; ``statistics`` reads them, for editors that need them;
    ``data`` are the attributions themselves; ``started`` is `time.perf_counter()` when the command
    began.

    Raises:
        InputError: Something does not fit: counts and rows, or an editor and the language model.
    """
    model = load(
        lm,
        weights,
        prefixes=[] if prefix is None else [prefix],
        modules=card.modules or modules,
        precision=getattr(settings, "precision", "stored"),
        device=device,
    )
    facts = encode(model, rows, seed=seed)
    check_pool(edits, sets=sets, pool=len(facts))
    choices: dict[str, Any] = {"sets": sets, "modules": modules}
    if settings is None:
        editors = _trained_editors(card, model, edits, trained)
        choices |= {"trained": list(trained)}
    else:
        untrained = _untrained_editor(card, model, settings, statistics=statistics, seed=seed)
        editors = dict.fromkeys(edits, untrained)
        choices |= asdict(settings)
    evaluation = score(editors, model, facts, counts=edits, sets=sets, size=fact_batch)
    metadata = run_metadata(seed=seed, settings=choices, started=started, data=data)
    frame = evaluation.scores.assign(editor=card.title, lm=lm, seed=seed)
    per_fact.write(out, frame, metadata | {"editing": evaluation.editing})


def _untrained_editor(
    card: Card, model: LanguageModel, settings: Any, *, statistics: Statistics | None, seed: int
) -> Editor:
    """Return an editor that needs no training."""
    offered = {"layers": model.shapes, "settings": settings, "seed": seed}
    if card.statistics:
        if statistics is None:
            raise InputError(
                f"--statistics: {card.title} needs them; `malmen key-statistics` makes them"
            )
        offered["statistics"] = statistics(model)
    editor: Editor = card.build(**offered)
    return editor


def _trained_editors(
    card: Card, model: LanguageModel, counts: Sequence[int], trained: Sequence[str]
) -> dict[int, Editor]:
    """Return for every count the editor trained at the nearest from above, or at the largest."""
    files: dict[int, Path] = {}
    for item in trained:
        path, _, count = item.rpartition("@")
        if not path or not count.isdigit():
            raise InputError(f"--trained {item}: write FILE@COUNT")
        files[int(count)] = Path(path)
    if not files:
        raise InputError(f"--trained: {card.name} has to be trained first, with `malmen train`")
    loaded = {count: load_editor(path, model, card) for count, path in sorted(files.items())}
    largest = max(loaded)
    return {m: loaded[min((c for c in loaded if c >= m), default=largest)] for m in counts}
