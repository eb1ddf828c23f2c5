"""What is measured of an edited LM, each metric declared once: columns and headings follow."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["HEADLINE", "METRICS", "PRE_EDIT_METRICS", "Metric"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of an edited LM on one fact, a fraction in [0, 1].

    Attributes:
        name: Of the column in per-fact results.
        title: In print.
        short: In print, where room is scarce; the title unless given.
        protocol: How the LM is asked.
        scorer: What counts: the tokens that are right ("accuracy"), whether all are ("exact"), or
            the tokens that are what they were before editing ("agreement").
    """

    name: str
    title: str
    short: str = ""
    protocol: str = "teacher forcing"
    scorer: Literal["accuracy", "exact", "agreement"] = "accuracy"

    @property
    def heading(self) -> str:
        """The heading of a column in print."""
        return self.short or self.title

    @property
    def arrow_type(self) -> str:
        """The type of its column."""
        return "bool" if self.scorer == "exact" else "float64"


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="es", title="ES"),
        Metric(name="gs", title="GS"),
        Metric(name="ls", title="LS"),
        Metric(name="ls_consistency", title="LS-consistency", short="LS-cons.", scorer="agreement"),
        Metric(name="es_exact", title="ES exact", scorer="exact"),
        Metric(name="gs_exact", title="GS exact", scorer="exact"),
        Metric(name="ls_exact", title="LS exact", scorer="exact"),
    )
}
"""The metrics by name, in the order of columns."""

HEADLINE = ("es", "gs", "ls")
"""The paper's own metrics: printed with intervals, and averaged in the score."""

PRE_EDIT_METRICS: dict[str, str] = {
    f"pre_{name}": name for name, metric in METRICS.items() if metric.scorer != "agreement"
}
"""The columns of the same scores before editing (agreement with itself says nothing)."""
