"""The one error that means: what was asked for or handed in cannot be used."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Report bad input (a file, a field, an option) in one line that says what to do.

    The command line prints the message as ``malmen: error: <message>`` and exits with status 2.
    """
