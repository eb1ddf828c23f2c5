"""The one error that means: what was asked for or handed in cannot be used."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

__all__ = ["InputError", "choices", "choose", "quoted"]

Choice = TypeVar("Choice")


class InputError(ValueError):
    """Report bad input (a file, a field, an option) in one line that says what to do.

    The command line prints the message as ``malmen: error: <message>`` and exits with status 2.
    """


def choices(value: object, known: Sequence[object]) -> str:
    """Return the nearest choice, where one is near, and all of them."""
    names = [str(name) for name in known]
    near = get_close_matches(str(value), names, n=1)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"({question}choices: {', '.join(names)})"


def quoted(text: str, most: int = 60) -> str:
    """Return a text in quotation marks, its middle cut out where it is long."""
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 3 :]}"
    return repr(text)


def choose(known: Mapping[str, Choice], name: str, kind: str) -> Choice:
    """Return what has a name.

    Raises:
        InputError: Nothing has; the message lists the choices.
    """
    if name not in known:
        raise InputError(f"unknown {kind} {name}; choose from {', '.join(known)}")
    return known[name]
