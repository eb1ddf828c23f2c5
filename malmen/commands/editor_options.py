"""The options of the command line that follow from the editors' cards."""

import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from itertools import pairwise
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes

from malmen.experiment.cards import Card, cards, find, trained
from malmen.experiment.options import one_of
from malmen.settings import HyperSettings, TrainingSettings

__all__ = [
    "AnyEditor",
    "OtherEditors",
    "TrainedEditor",
    "TrainedSettings",
    "TrainingOptions",
    "UntrainedSettings",
    "WeighingEditor",
    "know",
    "weighing",
]


def weighing() -> list[str]:
    """Return the editors that need statistics of keys."""
    return [card.name for card in cards() if card.statistics]


TrainedEditor = Annotated[str, one_of(trained())]
WeighingEditor = Annotated[str, one_of(weighing())]
AnyEditor = Annotated[str, one_of(card.name for card in cards())]
OtherEditors = Annotated[
    list[str],
    tyro.conf.arg(
        help="Where the cards stand of editors that are of no installed package, as "
        "package.module:CARD."
    ),
]


def know(editors: Sequence[str]) -> None:
    """Make editors of no installed package known: their order, their names and their looks."""
    for editor in editors:
        find(editor)


def _chosen() -> Card | None:
    """Return the editor that the command line names, which has to be known before it is read."""
    words = [part for word in sys.argv[1:] for part in word.split("=", 1)]
    names = [word for option, word in pairwise(words) if option == "--editor"]
    return find(names[-1]) if names else None


def _settings() -> type[Any]:
    card = _chosen()
    return HyperSettings if card is None or card.training is None else card.settings


def _training() -> type[Any]:
    card = _chosen()
    return TrainingSettings if card is None or card.training is None else card.training


def _of_each() -> type[Any]:
    """Return a dataclass with the hyper-parameters of each editor that needs no training."""
    _chosen()  # from now on known, also if it is of no installed package
    untrained = (card for card in cards() if card.training is None)
    return make_dataclass("Settings", [(c.name, c.settings, c.settings()) for c in untrained])


TrainedSettings = OmitArgPrefixes[Annotated[Any, tyro.conf.arg(constructor_factory=_settings)]]
"""The hyper-parameters of the trained editor that is chosen."""

TrainingOptions = OmitArgPrefixes[Annotated[Any, tyro.conf.arg(constructor_factory=_training)]]
"""The hyper-parameters of its training."""

UntrainedSettings = Annotated[Any, tyro.conf.arg(name="", constructor_factory=_of_each)]
"""The hyper-parameters of every editor without training, each under the editor's name."""
