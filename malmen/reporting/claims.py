"""The claims of the paper and of its reviewers, evaluated at the scale that ran."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from malmen.lm.catalogue import catalogue, lookup
from malmen.reporting.predicates import KINDS, Evidence, Found, NotTestableError, Predicate
from malmen.results.bootstrap import Interval
from malmen.results.per_fact import scale_of
from malmen.support.errors import InputError
from malmen.support.files import atomic, read_yaml

__all__ = [
    "DOES_NOT_HOLD",
    "HOLDS",
    "NOT_TESTABLE",
    "Claim",
    "Verdict",
    "evaluate_claims",
    "in_print",
    "judge",
    "read_claims",
]

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold"
NOT_TESTABLE = "not testable at this scale"

_EVERY_LM = "all"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, as `workflow/claims.yaml` states it.

    Attributes:
        id: Its name.
        text: The claim in words.
        source: Whose it is.
        test: What is measured.
        above: The claim holds if that lies above this; or None.
        below: The claim holds if that lies below this; or None.
        language_models: LMs it is made of, or None for all that there are results of.
    """

    id: str
    text: str
    source: str
    test: Predicate
    above: float | None = None
    below: float | None = None
    language_models: tuple[str, ...] | None = None

    @property
    def limit(self) -> float:
        """The number that what is measured has to lie above or below."""
        (limit,) = (end for end in (self.above, self.below) if end is not None)
        return limit

    @property
    def bound(self) -> str:
        """What has to be the case, such as "> 0 points"."""
        sign = "<" if self.above is None else ">"
        return f"{sign} {self.limit:g}{' points' if self.test.unit == 'points' else ''}"


@dataclass(frozen=True)
class Verdict:
    """What became of a claim on one LM.

    Attributes:
        claim: The claim.
        lm: The LM, empty for a claim about the run.
        status: `HOLDS`, `DOES_NOT_HOLD` or `NOT_TESTABLE`.
        found: What was measured; None where nothing could be.
        reason: Why the status is not "holds", and under what circumstances.
    """

    claim: Claim
    lm: str
    status: str
    found: Found | None
    reason: str

    @property
    def title(self) -> str:
        """The LM's name in print."""
        return lookup(self.lm).title if self.lm else ""

    @property
    def value(self) -> str:
        """What was measured, in print."""
        if self.found is None:
            return "–"
        return in_print(self.found.interval, at_least=self.found.at_least)

    @property
    def files(self) -> str:
        """The results it was measured in."""
        return ", ".join(map(str, self.found.files)) if self.found else ""


def in_print(interval: Interval, *, at_least: bool) -> str:
    """Return what was measured, with its interval if it has one, to three digits."""
    value, *ends = (f"{end:.3g}" for end in interval)
    known = not math.isnan(interval.low)
    return f"{'≥ ' if at_least else ''}{value}" + (f" [{', '.join(ends)}]" if known else "")


def evaluate_claims(claims: Path, evidence: Evidence, out_dir: Path) -> list[Verdict]:
    """Evaluate claims, print the verdicts, and write them as `claims.md` and `claims.csv`.

    Args:
        claims: The file of claims.
        evidence: The results of a run.
        out_dir: Folder for both files.

    Returns:
        The verdicts, in the order of the claims.

    Raises:
        InputError: The claims or a file of the results are malformed.
    """
    verdicts = [verdict for claim in read_claims(claims) for verdict in judge(claim, evidence)]
    scale = scale_of(evidence.evaluations) or "this"
    with atomic(Path(out_dir) / "claims.md") as temporary:
        temporary.write_text(_markdown(verdicts, scale), encoding="utf-8")
    with atomic(Path(out_dir) / "claims.csv") as temporary:
        pd.DataFrame(map(_record, verdicts)).to_csv(temporary, index=False)
    print(_terminal(verdicts, scale))
    return verdicts


def judge(claim: Claim, evidence: Evidence) -> Iterator[Verdict]:
    """Yield the verdict on a claim for each LM that it is made of, if any, with results."""
    lms: Sequence[str]
    if (named := claim.language_models) is None:
        lms = claim.test.lms(evidence)
    else:
        lms = [lm for lm in named if lm in evidence.lms] or named[:1]
    if not lms:
        yield Verdict(claim, "", NOT_TESTABLE, None, "no results to test it in")
    for lm in lms:
        try:
            found = claim.test.find(evidence, lm)
        except NotTestableError as error:
            yield Verdict(claim, lm, NOT_TESTABLE, None, str(error))
        else:
            status, reason = _status(claim, found)
            yield Verdict(claim, lm, status, found, reason)


def _status(claim: Claim, found: Found) -> tuple[str, str]:
    """Return status and reason; an interval that holds the bound shows nothing."""
    value, low, high = found.interval
    if math.isnan(low):
        low = high = value
    # How far each end is on the needed side.
    sign = -1 if claim.above is None else 1
    ends = sorted(sign * (end - claim.limit) for end in (low, high))
    if ends[0] > 0:
        return HOLDS, found.where
    if found.at_least and claim.above is not None and value <= claim.above:
        return NOT_TESTABLE, f"these counts do not reach {claim.bound}: {found.where}"
    if ends[1] > 0:
        return DOES_NOT_HOLD, f"not shown, the interval holds {claim.limit:g}: {found.where}"
    return DOES_NOT_HOLD, found.where


# --- reading -------------------------------------------------------------------------------------


def read_claims(path: Path) -> list[Claim]:
    """Read and check a file of claims.

    Raises:
        InputError: Naming file, claim, key and what would be right.
    """
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: not a list of claims")
    claims = [_claim(entry, f"{path}: claim {index}") for index, entry in enumerate(entries, 1)]
    for name, number in Counter(claim.id for claim in claims).items():
        if number > 1:
            raise InputError(f"{path}: {number} claims have the id '{name}' (give each its own)")
    return claims


def _claim(entry: Any, where: str) -> Claim:
    if isinstance(entry, Mapping) and "id" in entry:
        where = f"{where} ({entry['id']})"
    values = _checked(Claim, entry, where)
    if ("above" in values) == ("below" in values):
        raise InputError(f"{where}: give either 'above' or 'below'")
    values["test"] = test = _test(values["test"], f"{where}: test")
    if test.of_lm != ("language_models" in values):
        has = "needs" if test.of_lm else "takes no"
        raise InputError(f"{where}: this kind of test {has} key 'language_models'")
    if "language_models" in values:
        values["language_models"] = _language_models(values["language_models"], where)
    return Claim(**values)


def _test(entry: Any, where: str) -> Predicate:
    if not isinstance(entry, Mapping) or "kind" not in entry:
        raise InputError(f"{where}: key 'kind' is missing (choices: {', '.join(KINDS)})")
    if (kind := entry["kind"]) not in KINDS:
        raise InputError(f"{where}: unknown kind '{kind}' (choices: {', '.join(KINDS)})")
    rest = {key: value for key, value in entry.items() if key != "kind"}
    return KINDS[kind](**_checked(KINDS[kind], rest, where))


def _language_models(names: Any, where: str) -> tuple[str, ...] | None:
    if names == _EVERY_LM:
        return None
    names = tuple(names) if isinstance(names, list) else (names,)
    known = [name for name, entry in catalogue().items() if entry.edited]
    for name in names:
        if name not in known:
            choices = ", ".join((_EVERY_LM, *known))
            raise InputError(f"{where}: unknown language model '{name}' (choices: {choices})")
    return names


def _checked(kind: type[Any], entry: Any, where: str) -> dict[str, Any]:
    """Return the values of an entry that are to become the fields of a class."""
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: not a mapping of keys to values")
    known = {one.name: one for one in fields(kind)}
    for key in entry:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}' (choices: {', '.join(known)})")
    for name, one in known.items():
        if name in entry:
            _check_value(entry[name], one, f"{where}: {name}")
        elif one.default is MISSING:
            raise InputError(f"{where}: key '{name}' is missing")
    return dict(entry)


def _check_value(value: Any, one: Field[Any], where: str) -> None:
    if choices := one.metadata.get("choices"):
        if value not in choices():
            known = ", ".join(choices())
            raise InputError(f"{where}: unknown value '{value}' (choices: {known})")
    elif one.type is str and not (isinstance(value, str) and value):
        raise InputError(f"{where}: expected text, got {value!r}")
    elif one.type == float | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value)):
            raise InputError(f"{where}: expected a number, got {value!r}")


# --- reporting -----------------------------------------------------------------------------------


def _counts(verdicts: Sequence[Verdict]) -> str:
    number = Counter(verdict.status for verdict in verdicts)
    return (
        f"{number[HOLDS]} hold, {number[DOES_NOT_HOLD]} do not hold, "
        f"{number[NOT_TESTABLE]} cannot be tested"
    )


def _markdown(verdicts: Sequence[Verdict], scale: str) -> str:
    rows = [
        {
            "Claim": verdict.claim.text,
            "LM": verdict.title,
            "Status": f"**{verdict.status}**",
            "Found": verdict.value,
            "Needed": verdict.claim.bound,
            "Where": verdict.reason,
            "Source": verdict.claim.source,
            "Data": verdict.files,
        }
        for verdict in verdicts
    ]
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return (
        f"Claims at {scale} scale: {_counts(verdicts)}.\n\nA claim holds if the 95% interval of "
        "what was measured (bootstrap over edit sets and facts) lies wholly on the needed side; "
        "ratios of memory and time have no interval. The score is the harmonic mean of ES, GS and "
        f"LS.\n\n{table}\n"
    )


def _terminal(verdicts: Sequence[Verdict], scale: str) -> str:
    lines = [f"Claims at {scale} scale: {_counts(verdicts)}."]
    for claim, of_claim in groupby(verdicts, key=attrgetter("claim")):
        lines.append(claim.text)
        for verdict in of_claim:
            on = f" on {verdict.title}" if verdict.title else ""
            found = f": {verdict.value}, needed {claim.bound}" if verdict.found else ""
            lines.append(f"  {verdict.status.upper()}{on}{found} ({verdict.reason})")
    return "\n".join(lines)


def _record(verdict: Verdict) -> dict[str, Any]:
    claim, found = verdict.claim, verdict.found
    interval = found.interval if found else Interval(math.nan, math.nan, math.nan)
    return {
        "id": claim.id,
        "lm": verdict.lm,
        "status": verdict.status,
        **interval._asdict(),
        "at_least": bool(found and found.at_least),
        "needed": claim.bound,
        "where": verdict.reason,
        "text": claim.text,
        "source": claim.source,
        "data": verdict.files,
    }
