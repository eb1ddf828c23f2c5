"""What comes of the results: answers, tables, claims, measurements, figures, summaries."""

import sys
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from malmen.commands.editor_options import OtherEditors, know
from malmen.experiment.options import Answering, Measuring, OptionalPath
from malmen.reporting.sources import Findings, Made, Sources
from malmen.settings import HyperSettings
from malmen.support.errors import choose

__all__ = [
    "answers",
    "claims",
    "diagram",
    "figure",
    "memory",
    "reference",
    "report",
    "summary",
    "table",
    "verify",
]


def answers(*, options: OmitArgPrefixes[Answering]) -> None:
    """Answer prompts before and after editing."""
    from malmen.experiment.answers import answer

    answer(options)


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
    editors: OtherEditors = [],
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
    """
    know(editors)
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


def claims(
    *,
    claims: Path,
    findings: OmitArgPrefixes[Findings],
    out_dir: Path,
    editors: OtherEditors = [],
) -> None:
    """Say which claims of the paper hold in the results of a run.

    Args:
        claims: The claims (workflow/claims.yaml).
        out_dir: Folder for claims.md and claims.csv.
    """
    know(editors)
    from malmen.reporting.claims import evaluate_claims
    from malmen.reporting.predicates import Evidence

    evaluate_claims(claims, Evidence(**vars(findings)), out_dir)


def reference(*, results: Path, out: Path) -> None:
    """Keep the small results of a run, to compare later runs with.

    Args:
        results: Folder of the run, results/SCALE.
        out: Folder of the reference.
    """
    from malmen.reporting.verify import make_reference

    for path in make_reference(results, out):
        print(path)


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


def memory(
    *,
    options: OmitArgPrefixes[Measuring],
    settings: OmitArgPrefixes[HyperSettings] = HyperSettings(),
) -> None:
    """Measure the peak memory of meta-training and editing against the number of edits."""
    from malmen.experiment.memory import measure_memory

    measure_memory(options, settings)


def figure(
    *,
    name: str,
    out_dir: Path,
    evaluations: list[Path] = [],
    memory: OptionalPath = None,
    trained: list[Path] = [],
    editors: OtherEditors = [],
) -> None:
    """Draw a figure of the paper from results.

    Args:
        name: Which figure.
        out_dir: Folder for figure_NN.pdf, .png and .csv.
        evaluations: Files of `malmen evaluate` for one language model: its scaling curve.
        memory: File of `malmen memory`: Figure 8.
        trained: Run metadata of trained editors (.json), their logs (.csv) beside them: their
            learning curves.
    """
    know(editors)
    from malmen.figures import FIGURES

    choose(FIGURES, name, "figure")([memory] if memory else [*evaluations, *trained], out_dir)


def diagram(*, name: str, out_dir: Path) -> None:
    """Draw a figure of the paper that needs no results.

    Args:
        name: Which figure: 01 and 02 are procedures, the others modules of language models.
        out_dir: Folder for figure_NN.pdf, .png and .csv.
    """
    from malmen.figures.diagrams import DIAGRAMS

    choose(DIAGRAMS, name, "diagram")(out_dir)


def summary(*, made: OmitArgPrefixes[Made], out: Path) -> None:
    """Print what was found and where it is, and write the same as Markdown.

    Args:
        out: The summary, Markdown.
    """
    from malmen.reporting.summary import summarise

    summarise(**vars(made), out=out)


def report(*, sources: OmitArgPrefixes[Sources], out: Path) -> None:
    """Put everything that a run made on one self-contained page.

    Args:
        out: The page, HTML.
    """
    from malmen.reporting.report import write_report

    write_report(out, **vars(sources))
