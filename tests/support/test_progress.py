import io
import sys

import pytest

from malmen.support import progress
from malmen.support.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at the last number of the list."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[-1])
    return now


def test_a_log_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("training", total=1000, unit="steps") as bar:
        for step in range(1000):
            clock.append(clock[-1] + 0.03)
            bar.update(1, loss=1 / (step + 1), edits=64)
    written = capsys.readouterr()
    assert written.out == ""
    lines = written.err.splitlines()
    assert lines[0] == "training: 0 of 1,000 steps [00:00]"
    assert lines[1] == "training: 334 of 1,000 steps, loss 0.003, edits 64 [00:10]"
    assert lines[-1] == "training: 1,000 of 1,000 steps, loss 0.001, edits 64 [00:30]"
    assert len(lines) == 4  # half a minute: the start, the end, and one line every ten seconds
    assert "\r" not in written.err


def test_values_stay_until_there_are_new_ones(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("training", total=3, unit="steps", done=1) as bar:
        bar.update(0, loss=0.5)
        clock.append(clock[-1] + 3600)
        bar.update()
    assert capsys.readouterr().err.splitlines() == [
        "training: 1 of 3 steps [00:00]",
        "training: 2 of 3 steps, loss 0.500 [1:00:00]",
        "training: 2 of 3 steps, loss 0.500 [1:00:00]",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("training", total=3, unit="steps") as bar:
        for _ in range(3):
            bar.update(1, loss=0.25)
    drawn = terminal.getvalue()
    assert "training: 100%" in drawn
    assert "3/3" in drawn
    assert "loss 0.250" in drawn
    assert drawn.count("\n") == 1  # it is redrawn in place


@pytest.mark.parametrize("stderr", [io.StringIO, Terminal])
def test_hidden(monkeypatch: pytest.MonkeyPatch, stderr: type[io.StringIO]) -> None:
    monkeypatch.setattr(sys, "stderr", stderr())
    with Progress("training", total=3, unit="steps", show=False) as bar:
        bar.update(3)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_failed_stage_does_not_claim_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="boom"), Progress("training", total=3, unit="steps"):
        raise ValueError("boom")
    assert capsys.readouterr().err == "training: 0 of 3 steps [00:00]\n"
