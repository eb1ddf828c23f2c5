"""Progress of long stages: a bar on a terminal, now and then a line anywhere else.

Under Snakemake, stderr goes through a pipe to the terminal and to a log, and several stages write
there at once. A bar, which redraws itself, would fill both with copies; a line says which stage it
is, how far it has come and what its losses are.
"""

import sys
import time
from typing import Self

from tqdm import tqdm

__all__ = ["Progress"]

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Progress of one stage, for use in a ``with`` statement.

    Args:
        stage: what is going on, in words that tell it from other stages.
        total: how many units there are.
        unit: what is counted, in the plural.
        done: units done by an earlier run.
        show: whether to show anything at all.
    """

    def __init__(
        self, stage: str, *, total: int, unit: str, done: int = 0, show: bool = True
    ) -> None:
        self._stage, self._total, self._unit, self._done = stage, total, unit, done
        on_terminal = sys.stderr.isatty()
        self._lines = show and not on_terminal
        hidden = not (show and on_terminal)
        self._bar = tqdm(desc=stage, total=total, initial=done, unit=f" {unit}", disable=hidden)
        self._values = ""
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Self:
        if self._lines:
            self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        if self._lines and kind is None:
            self._write()

    def update(self, n: int = 1, **values: float | str) -> None:
        """Count ``n`` more units; ``values`` (losses, scores) are shown until the next ones."""
        self._done += n
        if values:
            self._values = "".join(f", {name} {_text(value)}" for name, value in values.items())
            self._bar.set_postfix_str(self._values.removeprefix(", "), refresh=False)
        self._bar.update(n)
        is_due = time.monotonic() - self._last >= SECONDS_BETWEEN_LINES
        if self._lines and is_due and self._done < self._total:  # the end gets its line anyway
            self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        print(
            f"{self._stage}: {self._done:,} of {self._total:,} {self._unit}{self._values}"
            f" [{tqdm.format_interval(self._last - self._started)}]",
            file=sys.stderr,
            flush=True,
        )


def _text(value: float | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
