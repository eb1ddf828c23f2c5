"""Facts in words: prompts to learn or to probe, and rows to edit."""

import random
from collections.abc import Iterable, Sequence
from itertools import chain

from malmen.data.geonames.claims import claimable, claimed_value, dealt
from malmen.data.geonames.facts import Fact, by_prominence, by_relation
from malmen.data.geonames.wordings import WORDINGS
from malmen.data.rows import LABELS, FeverRow, Label, ZsreRow
from malmen.support.errors import InputError

__all__ = ["PROBED", "all_prompts", "fever_rows", "prompts_to_probe", "zsre_rows"]

PROBED: tuple[str, ...] = ("capital", "capital_of", "country", "continent", "us_state")
"""The relations whose statements are tried as unrelated prompts."""


def all_prompts(facts: Iterable[Fact]) -> list[tuple[str, str]]:
    """Return (prompt, answer) of all questions and statements of one fact after another's."""
    return [
        (fact.worded(wording), fact.answer)
        for fact in facts
        for wording in chain(WORDINGS[fact.relation].questions, WORDINGS[fact.relation].statements)
    ]


def prompts_to_probe(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """Return prompts that a language model may know, the most prominent subjects first.

    Only statements, and only of the relations in :data:`PROBED`: a small language model completes
    "Lyon is located in the country of", and next to no other prompt.

    Args:
        facts: Facts of an unrelated split.

    Returns:
        One (prompt, answer) pair a fact; the wordings take turns.
    """
    pairs = []
    for i, fact in enumerate(by_prominence(f for f in facts if f.relation in PROBED)):
        statements = WORDINGS[fact.relation].statements
        pairs.append((fact.worded(statements[i % len(statements)]), fact.answer))
    return pairs


def zsre_rows(
    facts: Sequence[Fact], known: Sequence[tuple[str, str]], *, n: int, seed: int
) -> list[ZsreRow]:
    """Make question rows, in which no relation outweighs the others.

    Relations take turns while they last, and every subject gets one row before any gets a second.

    Args:
        facts: Facts to edit, of one split.
        known: Unrelated (prompt, answer) pairs that the language model gets right; they are
            dealt out evenly.
        n: How many rows.
        seed: Decides facts, wordings and pairs.

    Returns:
        ``n`` rows of distinct facts, each with another question and a statement as its paraphrases.

    Raises:
        InputError: There are fewer than ``n`` facts, or no pairs.
    """
    rng = random.Random(seed)
    chosen = _balanced(facts, n, rng)
    pairs = dealt(known, n, rng)
    rows = []
    for fact, (loc, loc_ans) in zip(chosen, pairs, strict=True):
        wordings = WORDINGS[fact.relation]
        asked, other = rng.sample(wordings.questions, 2)
        stated = rng.choice(wordings.statements)
        rows.append(
            ZsreRow(
                subject=fact.subject,
                src=fact.worded(asked),
                rephrase=(fact.worded(other), fact.worded(stated)),
                ans=fact.answer,
                loc=loc,
                loc_ans=loc_ans,
                relation=fact.relation,
            )
        )
    return rows


def fever_rows(
    facts: Sequence[Fact], known_claims: Sequence[tuple[str, Label]], *, n: int, seed: int
) -> list[FeverRow]:
    """Make claim rows: half of the claims true, half false.

    The label edited in is drawn evenly from both and does not depend on the truth, so that about
    half of the edits overturn a checker that knows the facts, and the label cannot be guessed from
    the claim.

    Args:
        facts: Facts to edit, of one split; also the source of the false values.
        known_claims: Unrelated (claim, true label) pairs that the checker gets right; they are
            dealt out evenly.
        n: How many rows.
        seed: Decides facts, values, wordings, labels and pairs.

    Returns:
        ``n`` rows of distinct facts, each with all other wordings of its claim as paraphrases.

    Raises:
        InputError: There are fewer than ``n`` facts, or no pairs.
    """
    rng = random.Random(seed)
    facts, values = claimable(facts)
    # "Rome is the capital of Italy" is one claim, of whichever of its two subjects it is said, and
    # must not be edited twice with different labels.
    chosen = _balanced([fact for fact in facts if fact.relation != "capital_of"], n, rng)
    pairs = dealt(known_claims, n, rng)
    rows = []
    for fact, (claim, label) in zip(chosen, pairs, strict=True):
        value = claimed_value(fact, rng.choice(LABELS), values, rng)
        wordings = [fact.worded(wording, value) for wording in WORDINGS[fact.relation].claims]
        rng.shuffle(wordings)
        rows.append(
            FeverRow(
                prompt=wordings[0],
                equiv_prompt=tuple(wordings[1:]),
                unrel_prompt=claim,
                alt=rng.choice(LABELS),
                unrel_ans=label,
                subject=fact.subject,
                relation=fact.relation,
            )
        )
    return rows


def _balanced(facts: Sequence[Fact], n: int, rng: random.Random) -> list[Fact]:
    """Draw facts, the relations taking turns, new subjects before subjects already drawn."""
    if not 0 < n <= len(facts):
        raise InputError(f"{n} rows asked of {len(facts)} facts (ask for 1 to {len(facts)})")
    chosen: list[Fact] = []
    left = list(facts)
    rng.shuffle(left)
    while len(chosen) < n:
        used: set[str] = set()
        groups = [iter(group) for group in by_relation(left).values()]
        while groups and len(chosen) < n:
            for group in list(groups):
                fact = next((f for f in group if f.subject not in used), None)
                if fact is None:
                    groups.remove(group)
                elif len(chosen) < n:
                    used.add(fact.subject)
                    chosen.append(fact)
        taken = set(chosen)
        left = [fact for fact in left if fact not in taken]
    return chosen
