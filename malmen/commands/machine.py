"""What a configuration may hold, and what the machine has to bear for it."""

import json
import sys
from pathlib import Path

from malmen.commands.editor_options import OtherEditors, know

__all__ = ["estimate", "schema"]


def estimate(*, configuration: Path) -> None:
    """Print what a run of the paper's language models takes, by rule.

    The last line says what this machine is too small for; the exit status is then 1.

    Args:
        configuration: Of the workflow, complete, as JSON; - is standard input.
    """
    from malmen.experiment.loading import prepare_libraries
    from malmen.planning.estimates import BASIS, Machine, cost_table, costs, shortcomings
    from malmen.support.files import read_json

    prepare_libraries()
    is_piped = configuration == Path("-")
    found = costs(json.load(sys.stdin) if is_piped else read_json(configuration))
    print(f"Estimates, from nothing: {BASIS}.\n\n{cost_table(found)}\n")
    if short := shortcomings(found, Machine.here()):
        print(f"this machine is too small: {'; '.join(short)} (--config machine=ignore tries it)")
        sys.exit(1)
    print("This machine is large enough.")


def schema(*, editors: OtherEditors = []) -> None:
    """Print the JSON Schema of configurations, by which editors of YAML complete and check them."""
    know(editors)
    from malmen.experiment.configuration import schema as made

    print(json.dumps(made(), indent=2))
