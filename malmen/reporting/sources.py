"""The files of a run that its claims, its summary and its report are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from malmen.experiment.options import OptionalPath

__all__ = ["Findings", "Made", "Sources"]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of a run, by where they lie."""

    evaluations: Sequence[Path]
    """Files of `malmen evaluate`."""
    ablations: Sequence[Path] = ()
    """Files of `malmen evaluate` of MALMEN's variants, named after what they change."""
    trained: Sequence[Path] = ()
    """Run metadata of trained editors (.json), their logs (.csv) beside them."""
    statistics: Sequence[Path] = ()
    """Run metadata of `malmen key-statistics`."""
    memory: OptionalPath = None
    """File of `malmen memory`."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a run made."""

    tables: Sequence[Path]
    """Tables made, Markdown."""
    figures: Sequence[Path] = ()
    """Figures made; a report takes the PNG."""
    claims: OptionalPath = None
    """What `malmen claims` wrote: Markdown for a summary, CSV for a report."""
    answers: Sequence[Path] = ()
    """Files of `malmen answers`."""
    models: Sequence[Path] = ()
    """Folders of language models that were made here, whose accuracy is shown."""
    runs: Sequence[Path] = ()
    """Run metadata: JSON files, and files of `malmen evaluate`; what the runs used is credited."""


@dataclass(frozen=True, kw_only=True)
class Sources(Made):
    """The files that a report is made of; what is left out is reported as missing."""

    scale: str
    """The scale that ran."""
    tables: Sequence[Path] = ()
    """Tables made, Markdown."""
    benchmarks: OptionalPath = None
    """Folder of Snakemake's benchmarks."""
