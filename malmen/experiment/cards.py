"""The editors: a card for each says whatever the suite has to know of it.

The choices of the command line and of the configuration, what the workflow prepares, and order,
names and looks in tables and figures follow from the cards; nothing else compares an editor's name.

A card names the editor's class as text. So reading the cards costs no import of torch (4 s, and
every table would pay it), and the digest of an editor's code does not cover its card: another
colour draws the figures again, and trains nothing again. An editor of somebody else may stand in
one module with its card all the same.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from malmen.lm.catalogue import Entry, Modules
from malmen.settings import (
    FineTuningSettings,
    HyperSettings,
    MemitSettings,
    OracleSettings,
    TokenSettings,
    TrainingSettings,
)
from malmen.support.errors import InputError, choose

__all__ = [
    "ENTRY_POINTS",
    "LATER_MARK",
    "MALMEN",
    "ORACLE_MARK",
    "OWN",
    "Card",
    "cards",
    "find",
    "marked",
    "notes",
    "of_title",
    "printed_name",
    "titles",
    "trained",
]

ENTRY_POINTS = "malmen.experiment.editors"
"""The group of entry points under which an installed package names its cards."""

LATER_MARK = "†"
"""Stands behind the name in print of an editor that is later than the paper."""

ORACLE_MARK = "‡"
"""Stands behind the name in print of what is no editor: it sees what is evaluated."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that the suite knows of an editor before its class is loaded.

    Attributes:
        name: On the command line, in configurations and in names of files.
        title: In print, and in the column `editor` of results.
        editor: Its class, as `package.module:Class`. The constructor takes by name what it needs
            of: `layers`, (d, d') of every edited layer by name; `settings`; `statistics` of keys;
            `seed`. The class has the protocol `malmen.editor.Editor`.
        settings: The dataclass of its hyper-parameters. One that is called `precision` is the
            language model's.
        training: The dataclass of the hyper-parameters of its meta-training, or None if it needs
            none. With it, the class is a `HyperNetworkEditor`, and its settings `HyperSettings`.
        statistics: Whether it needs statistics of keys.
        subjects: Whether every prompt has to name its subject.
        modules: The modules it edits, a choice of the catalogue, if they are always the same.
            They may lie below stored states, so a trained editor has none of its own.
        later: Where it is published, if later than the paper.
        oracle: Whether it is no editor, but sees the equivalent and unrelated tuples that editors
            are scored on, to tell what an editor could reach. It is marked, and never the best.
        color: Of its line in figures; without one, it gets a look that is free.
        marker: On that line, as matplotlib names it.
        dashes: Of that line, likewise.
    """

    name: str
    title: str
    editor: str
    settings: type[Any]
    training: type[Any] | None = None
    statistics: bool = False
    subjects: bool = False
    modules: Modules | None = None
    later: str = ""
    oracle: bool = False
    color: str = ""
    marker: str = "o"
    dashes: Any = "-"

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):  # files and options are named so
            raise InputError(f"editor {self.name!r}: name it in small letters, digits and _")
        if self.training is not None and self.modules is not None:
            raise InputError(f"editor {self.name!r}: --modules chooses what is trained")

    @property
    def module(self) -> str:
        """The module of its class."""
        return self.editor.partition(":")[0]

    @property
    def takes_prefix(self) -> bool:
        """Whether it starts from stored states, which modules of its own may lie below."""
        return self.modules is None

    def edits(self, lm: Entry) -> bool:
        """Tell whether the catalogue has modules of a language model for it."""
        return self.modules is None or bool(getattr(lm, self.modules))

    def load(self) -> Any:
        """Return its class."""
        return getattr(import_module(self.module), self.editor.partition(":")[2])

    def build(self, **offered: Any) -> Any:
        """Return the editor, made of what its constructor takes of what is offered."""
        kind = self.load()
        taken = offered.keys() & signature(kind).parameters
        return kind(**{name: offered[name] for name in taken})


FT = Card(
    name="ft",
    title="FT",
    editor="baselines.fine_tuning:FineTuning",
    settings=FineTuningSettings,
    color="#009E73",
    marker="^",
    dashes=(0, (3, 1.5, 1, 1.5)),
)
MEND = Card(
    name="mend",
    title="MEND",
    editor="baselines.mend:MEND",
    settings=HyperSettings,
    training=TrainingSettings,
    color="#D55E00",
    marker="s",
    dashes=(0, (5, 1.5)),
)
ULTRAEDIT = Card(
    name="ultraedit",
    title="UltraEdit",
    editor="baselines.ultraedit:UltraEdit",
    settings=TokenSettings,
    later="Gu et al., arXiv 2505.14679, 2025",
    color="#CC79A7",
    marker="D",
    dashes=(0, (1, 1)),
)
MEMIT = Card(
    name="memit",
    title="MEMIT",
    editor="baselines.memit:MEMIT",
    settings=MemitSettings,
    statistics=True,
    subjects=True,
    modules="memit",
    color="#E69F00",
    marker="v",
    dashes=(0, (5, 1, 1, 1, 1, 1)),
)
MALMEN = Card(
    name="malmen",
    title="MALMEN",
    editor="malmen.malmen:MALMEN",
    settings=HyperSettings,
    training=TrainingSettings,
    color="#0072B2",
)
"""The paper's own editor, which the ablations, the answers and the plans of memory are about."""

ORACLE = Card(
    name="oracle",
    title="Oracle",
    editor="baselines.oracle:Oracle",
    settings=OracleSettings,
    oracle=True,
    color="#000000",
    marker="x",
    dashes=(0, (1, 2)),
)

OWN = (FT, MEND, ULTRAEDIT, MEMIT, MALMEN, ORACLE)
"""The editors of this project, in the order of rows and legends; those of others follow."""

_named: dict[str, Card] = {}  # cards of no installed package, by their references


def cards() -> tuple[Card, ...]:
    """Return the card of every editor that is known, in the order of rows and legends.

    Those are the project's own, then those of installed packages, then those found by a reference.
    """
    return (*OWN, *_installed(), *_named.values())


def titles() -> tuple[str, ...]:
    """Return the names in print of the editors that are known, in the order of rows and legends."""
    return tuple(card.title for card in cards())


def trained() -> dict[str, Card]:
    """Return the editors that are meta-trained, by name."""
    return {card.name: card for card in cards() if card.training is not None}


def find(editor: str) -> Card:
    """Return an editor's card by its name, or by where it stands: `package.module:CARD`.

    An editor found by a reference is known by its name from then on.

    Raises:
        InputError: There is no such editor, or another one has its name.
    """
    if ":" in editor:
        if editor not in _named:
            card = _read(editor)
            if card in cards():  # named in another way before
                return card
            _named[editor] = _distinct(card, cards(), editor)
        return _named[editor]
    return choose({card.name: card for card in cards()}, editor, "editor")


def of_title(title: str) -> Card | None:
    """Return an editor's card by its name in print, if it is known."""
    return next((card for card in cards() if card.title == title), None)


def printed_name(name: str) -> str:
    """Return an editor's name in print; the name itself if it is unknown."""
    return next((card.title for card in cards() if card.name == name), name)


def marked(title: str) -> str:
    """Return an editor's name in print, with the marks that `notes` explains."""
    card = of_title(title)
    marks = {LATER_MARK: card.later, ORACLE_MARK: card.oracle} if card is not None else {}
    return title + "".join(mark for mark, is_due in marks.items() if is_due)


def notes(titles: Iterable[str]) -> list[str]:
    """Return a footnote for each of these names in print that has a mark."""
    present = set(titles)
    return [
        f"{LATER_MARK} {card.title} ({card.later}) is later than the paper."
        if card.later
        else f"{ORACLE_MARK} {card.title} is no editor: it sees what is evaluated."
        for card in cards()
        if card.title in present and (card.later or card.oracle)
    ]


@cache
def _installed() -> tuple[Card, ...]:
    found: list[Card] = []
    for point in sorted(entry_points(group=ENTRY_POINTS)):
        found.append(_distinct(_read(point.value), (*OWN, *found), point.value))
    return tuple(found)


def _read(reference: str) -> Card:
    module, _, name = reference.partition(":")
    try:
        card = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"no editor at {reference}: {error} (write package.module:CARD, with the package "
            "installed or its folder on PYTHONPATH)"
        ) from error
    if not isinstance(card, Card):
        raise InputError(f"no editor at {reference}: it is no malmen.experiment.cards.Card")
    return card


def _distinct(card: Card, others: tuple[Card, ...], reference: str) -> Card:
    for other in others:
        if card.name == other.name or card.title == other.title:
            raise InputError(
                f"{reference}: there is another editor by the name {card.name} or {card.title} "
                f"({other.editor})"
            )
    return card
