"""Data: facts, downloads, rows made from either, stored states, statistics of keys."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from malmen.commands.editor_options import WeighingEditor, weighing
from malmen.experiment.cards import cards, find
from malmen.experiment.options import EditedModel, OptionalPath, RowMaking, Storing, Weighing
from malmen.lm.catalogue import lookup
from malmen.support.errors import InputError

__all__ = ["download", "facts", "import_rows", "key_statistics", "prefix", "rows"]


def check(
    file: Annotated[Path, Positional],
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

    if weights is not None and lm is None:
        raise InputError("--weights: name the language model, too (--lm)")
    entry = None if lm is None else lookup(lm)
    fitting = [card for card in cards() if entry is None or card.edits(entry)]
    reader = None
    if entry is not None:
        reader = Reader(entry.title, entry.task, _encoder(entry.name, weights))
    found, wrong = check(
        file,
        against=against,
        answer=answer,
        editors=[Editor(card.title, card.subjects) for card in fitting],
        reader=reader,
    )
    print(found, end="")
    if wrong:
        sys.exit(1)


def facts(*, out: Path) -> None:
    """Collect facts from GeoNames.

    Args:
        out: JSON lines, one fact each.
    """
    from malmen.data.geonames.facts import collect_facts, write_facts

    write_facts(out, collect_facts())


def rows(*, options: OmitArgPrefixes[RowMaking]) -> None:
    """Make rows from GeoNames facts; what the language model knows serves as unrelated prompts."""
    from malmen.experiment.desk import write_splits

    write_splits(options)


def download(
    names: Annotated[list[str], Positional, arg(metavar="NAME")] = [],
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
        fits=_encoder(lm, weights),
    )
    write_rows(out, drawn)


def prefix(*, options: OmitArgPrefixes[Storing]) -> None:
    """Run the frozen blocks once over every prompt of files of rows.

    What enters the language-model head at the answers is stored, too, so that the logits before
    editing need not be computed again; and so are keys and value gradients of the edit tuples, at
    the tokens that predict an answer, if the disk has plenty of room.
    """
    from malmen.experiment.prefix import store_prefixes

    store_prefixes(options)


def key_statistics(
    *, editor: WeighingEditor = weighing()[0], options: OmitArgPrefixes[Weighing]
) -> None:
    """Average the keys' outer products over texts, for editors that weigh their changes with them.

    Args:
        editor: Which editor's modules they are keys of.
    """
    card = find(editor)
    from malmen.experiment.key_statistics import average_keys

    average_keys(options, card.modules or "edited")


def _encoder(lm: str, weights: Path | None) -> Callable[[str, str], object] | None:
    """Return what tokenises a prompt and its answer, or refuses them, if there is a tokenizer."""
    from malmen.experiment.loading import load_encoder

    return None if weights is None else load_encoder(lm, weights)
