"""Facts shared out among splits, so that no subject is in two of them.

Prominent subjects (populous countries and large cities) are never edited: they are the pool from
which the unrelated prompts come, because a language model has to know those before anything is
edited.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from malmen.data.geonames.facts import Fact, by_prominence
from malmen.support.errors import InputError

__all__ = ["SPLITS", "Split", "checker_facts", "pretraining_facts", "split_subjects"]

Split = Literal[
    "train",
    "validation",
    "evaluation",
    "unrelated_train",
    "unrelated_validation",
    "unrelated_evaluation",
]

SPLITS: Mapping[Split, float] = {
    "train": 0.65,
    "validation": 0.10,
    "evaluation": 0.25,
    "unrelated_train": 0.45,
    "unrelated_validation": 0.15,
    "unrelated_evaluation": 0.40,
}
"""The share of its pool (to be edited, or unrelated) that each split takes."""

PROMINENT_COUNTRY = 5_000_000
PROMINENT_CITY = 300_000
"""Inhabitants from which on a country or a city is prominent: asked about, never edited."""


def split_subjects(facts: Sequence[Fact], *, seed: int) -> dict[Split, list[Fact]]:
    """Share the facts out so that no subject is in two splits.

    Prominent subjects go to the three ``unrelated_...`` splits, all others to ``train``,
    ``validation`` and ``evaluation``, in the proportions of :data:`SPLITS`. An edited row of a
    split takes its unrelated prompt from the unrelated split of the same name.

    Args:
        facts: Facts to share out.
        seed: Decides which subject goes where.

    Returns:
        The facts of each split, in the order in which they came.
    """
    rng = random.Random(seed)
    place: dict[str, Split] = {}
    for unrelated in (False, True):
        pool = [f.subject for f in facts if _is_prominent(f) == unrelated]
        subjects = list(dict.fromkeys(subject for subject in pool if subject not in place))
        rng.shuffle(subjects)
        start = 0.0
        for name in (name for name in SPLITS if _is_unrelated(name) == unrelated):
            end = start + SPLITS[name] * len(subjects)
            place |= dict.fromkeys(subjects[round(start) : round(end)], name)
            start = end
    shared: dict[Split, list[Fact]] = {name: [] for name in SPLITS}
    for fact in facts:
        shared[place[fact.subject]].append(fact)
    return shared


def checker_facts(splits: Mapping[Split, Sequence[Fact]]) -> tuple[list[Fact], list[Fact]]:
    """Choose the facts that the fact checker is trained on, and those that measure it.

    It learns the facts that meta-training edits and all prominent ones, so that there are claims
    it gets right before anything is edited. The facts of ``evaluation`` stay unseen, and so do
    those of ``validation``, on which its accuracy on unseen facts is measured.
    """
    return [*splits["train"], *_unrelated(splits)], list(splits["validation"])


def pretraining_facts(
    splits: Mapping[Split, Sequence[Fact]], *, subjects: int
) -> tuple[list[Fact], list[Fact]]:
    """Choose the facts that a language model is pre-trained on, and those that stay unseen.

    It learns the most prominent subjects, which are the ones first asked about as unrelated prompts
    and never edited. What is edited in the end, the facts of ``evaluation``, measures its accuracy
    on facts that it has not seen.

    Args:
        splits: What :func:`split_subjects` returned.
        subjects: How many of the prominent subjects are learned.

    Returns:
        The facts to train on, the most prominent subjects first, and the held-out facts.

    Raises:
        InputError: There are fewer prominent subjects.
    """
    prominent = by_prominence(_unrelated(splits))
    names = list(dict.fromkeys(fact.subject for fact in prominent))
    if not 0 < subjects <= len(names):
        raise InputError(
            f"{subjects} subjects asked of {len(names)} prominent ones (ask for 1 to {len(names)})"
        )
    learned = set(names[:subjects])
    return [fact for fact in prominent if fact.subject in learned], list(splits["evaluation"])


def _unrelated(splits: Mapping[Split, Sequence[Fact]]) -> list[Fact]:
    return [fact for name in SPLITS if _is_unrelated(name) for fact in splits[name]]


def _is_unrelated(split: Split) -> bool:
    return split.startswith("unrelated_")


def _is_prominent(fact: Fact) -> bool:
    if fact.place == "state":
        return True
    return fact.prominence >= (PROMINENT_COUNTRY if fact.place == "country" else PROMINENT_CITY)
