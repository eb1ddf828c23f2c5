"""The command line: every stage of the suite as a plain command."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import tyro

from malmen.commands import data, editors, machine, models, outputs, search
from malmen.lm.catalogue import use
from malmen.support.errors import InputError

__all__ = ["main"]

CATALOGUE = (
    "--catalogue FILE, anywhere and as often as there are files, adds language models to those "
    "that --lm names; so does the environment variable MALMEN_CATALOGUE."
)

app = tyro.extras.SubcommandApp()
look = tyro.extras.SubcommandApp()
look.command(data.check)
app.command(look, name="data", help="Look at data files.")
for module in (models, data, editors, machine, outputs, search):
    for name in module.__all__:
        app.command(getattr(module, name))


def main() -> None:
    """Run the command line; bad input ends with one line and exit status 2."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("malmen").setLevel(logging.INFO)  # other libraries' notes stay out
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        words = _without_catalogues(sys.argv[1:])
        app.cli(prog="malmen", description=f"{__doc__} {CATALOGUE}", args=words)
    except OSError as error:  # most often a file that is missing or may not be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}", status=2))
    except InputError as error:
        sys.exit(_complain(error, status=2))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted; what was finished is kept", status=130))
    except ArithmeticError as error:
        sys.exit(_complain(error, status=1))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("malmen", "baselines")):
            raise
        sys.exit(_complain(f"{error.name} is missing: pip install 'malmen[workflow]'", status=2))


def _without_catalogues(words: Sequence[str]) -> list[str]:
    """Take --catalogue FILE, which adds language models to the choices, out of a command line."""
    parser = argparse.ArgumentParser(prog="malmen", add_help=False, allow_abbrev=False)
    parser.add_argument("--catalogue", action="append", default=[], metavar="FILE")
    found, rest = parser.parse_known_args(words)
    use(found.catalogue)
    return rest


def _complain(error: object, *, status: int) -> int:
    print("malmen: error:", *str(error).split(), file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
