"""The search for hyper-parameters."""

from pathlib import Path

__all__ = ["search_table"]


def search_table(*, evaluations: list[Path], out: Path) -> None:
    """List the trials of a search for hyper-parameters, best first.

    Args:
        evaluations: Files of `malmen evaluate`, one a trial.
        out: CSV, one row a trial.
    """
    from malmen.results.search import trials
    from malmen.support.files import atomic

    with atomic(out) as temporary:
        trials(evaluations).to_csv(temporary, index=False)
