from pathlib import Path

import pytest
from synthetic import evaluation, write_evaluations

from malmen.reporting.so_far import print_so_far


def test_every_editor_stands_with_its_largest_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluations(tmp_path, lms=["smollm2"], counts=(4, 8))
    print_so_far(tmp_path)
    captured = capsys.readouterr()
    assert not captured.out
    lines = [line.split() for line in captured.err.splitlines() if "SmolLM2-135M" in line]
    assert [line[1:3] for line in lines] == [
        [editor, "8"] for editor in ("Pre-edit", "FT", "MEND", "MALMEN")
    ]
    frame = evaluation("MALMEN", counts=(4, 8))
    wanted = 100 * frame[frame["edits"] == 8][["es", "gs", "ls"]].mean()
    assert lines[-1][3:] == [f"{value:.1f}" for value in wanted]


def test_names_are_those_in_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [path] = write_evaluations(tmp_path, lms=["smollm2"], editors=["MEND"], counts=(4,))
    path.parent.rename(tmp_path / "renamed")
    print_so_far(tmp_path)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [line[:2] for line in lines if "SmolLM2-135M" in line] == [
        ["SmolLM2-135M", "Pre-edit"],
        ["SmolLM2-135M", "MEND"],
    ]


def test_every_language_model_has_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluations(tmp_path, editors=["FT"], counts=(4,))
    (tmp_path / "gpt2_desk").mkdir()  # its first evaluation has not ended yet
    print_so_far(tmp_path)
    shown = capsys.readouterr().err
    assert shown.count("MiniLM fact checker") == shown.count("SmolLM2-135M") == 2
    assert "GPT-2" not in shown
