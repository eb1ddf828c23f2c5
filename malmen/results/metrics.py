"""What is measured of an edited LM, each metric declared once: columns and headings follow.

A metric has a protocol, which says how the LM is made to answer, and a scorer, which says what its
answers are held against. Metrics of one protocol and scorer can be compared, others cannot: the
same editor looks far better under teacher forcing than where the LM writes by itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "FURTHER",
    "FURTHER_PRE_EDIT",
    "HEADLINE",
    "METRICS",
    "PRE_EDIT_METRICS",
    "PROTOCOLS",
    "SCORERS",
    "Metric",
]

TEACHER_FORCING, GENERATION = "teacher forcing", "greedy generation"

PROTOCOLS: dict[str, str] = {
    TEACHER_FORCING: (
        "the most likely token at each place of the answer, behind the prompt and the answer's own "
        "tokens before it; a fact checker's verdict"
    ),
    GENERATION: (
        "greedy decoding from the prompt alone, until the LM's end token, a newline or a full "
        "stop, or at most 32 tokens; white space before an answer does not end it"
    ),
}
"""How an LM is made to answer."""

SCORERS: dict[str, str] = {
    "token accuracy": "share of the answer's tokens that are right",
    "token exact match": "whether every token of the answer is right",
    "token agreement": "share of tokens that are those of the unedited LM",
    "exact match": "whether the texts are equal when normalised as for SQuAD",
    "token F1": "F1 of the words in common when normalised as for SQuAD",
    "text agreement": (
        "whether the text is that of the unedited LM when both are normalised as for SQuAD"
    ),
}
"""What answers are held against; the data's answer unless they say otherwise."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of an edited LM on one fact, a fraction in [0, 1].

    Attributes:
        name: Of the column in per-fact results.
        title: In print.
        short: In print, where room is scarce; the title unless given.
        protocol: A key of `PROTOCOLS`.
        scorer: A key of `SCORERS`.
        version: Raised whenever its values change meaning.
    """

    name: str
    title: str
    short: str = ""
    protocol: str = TEACHER_FORCING
    scorer: str = "token accuracy"
    version: int = 1

    @property
    def heading(self) -> str:
        """The heading of a column in print."""
        return self.short or self.title

    @property
    def arrow_type(self) -> str:
        """The type of its column."""
        return "bool" if self.scorer == "token exact match" else "float64"

    @property
    def has_level(self) -> bool:
        """Whether it can be measured before editing: agreement with oneself says nothing."""
        return not self.scorer.endswith("agreement")

    @property
    def meta(self) -> dict[str, Any]:
        """What comparing its values takes: EasyEdit's `metric_meta`, and the definition."""
        return {
            "result_key": self.name,
            "protocol": self.protocol,
            "scorer": self.scorer,
            "comparable_group": f"{self.protocol}, {self.scorer}",
            "version": self.version,
            "definition": f"{PROTOCOLS[self.protocol]}; {SCORERS[self.scorer]}",
        }


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="es", title="ES"),
        Metric(name="gs", title="GS"),
        Metric(name="ls", title="LS"),
        Metric(
            name="ls_consistency",
            title="LS-consistency",
            short="LS-cons.",
            scorer="token agreement",
        ),
        Metric(name="es_exact", title="ES exact", scorer="token exact match"),
        Metric(name="gs_exact", title="GS exact", scorer="token exact match"),
        Metric(name="ls_exact", title="LS exact", scorer="token exact match"),
    )
}
"""The metrics that every evaluation has, by name, in the order of columns."""


def _further() -> Iterator[Metric]:
    yield Metric(name="ps", title="Portability", short="PS")
    for name, title in {"es": "ES", "gs": "GS", "ls": "LS", "ps": "PS"}.items():
        yield Metric(
            name=f"{name}_generated",
            title=f"{title} generated",
            short=f"{title} gen.",
            protocol=GENERATION,
            scorer="exact match",
        )
        yield Metric(name=f"{name}_f1", title=f"{title} F1", protocol=GENERATION, scorer="token F1")
    yield Metric(
        name="ls_consistency_generated",
        title="LS-consistency generated",
        short="LS-cons. gen.",
        protocol=GENERATION,
        scorer="text agreement",
    )


FURTHER: dict[str, Metric] = {metric.name: metric for metric in _further()}
"""Those that an evaluation may have, of some of its facts: of what the LM wrote by itself, and of
portability where the rows ask for it. Where a fact was not asked, they are missing."""

HEADLINE = ("es", "gs", "ls")
"""The paper's own metrics: printed with intervals, and averaged in the score."""


def _before(metrics: Mapping[str, Metric]) -> dict[str, str]:
    return {f"pre_{name}": name for name, metric in metrics.items() if metric.has_level}


PRE_EDIT_METRICS, FURTHER_PRE_EDIT = _before(METRICS), _before(FURTHER)
"""The columns of the same scores before editing."""
