from pathlib import Path

import pandas as pd
from synthetic import measurements, write_evaluations, write_training_log

from malmen.figures import FIGURES


def write_inputs(folder: Path) -> dict[str, list[Path]]:
    """Write what four of the figures are drawn from."""
    memory = folder / "memory.csv"
    measurements().to_csv(memory, index=False)
    sizes = {"counts": (16, 32), "sets": 1}
    return {
        "04": write_evaluations(folder, lms=("fact_checker",), **sizes),
        "S1": write_evaluations(folder, lms=("smollm2",), **sizes),
        "08": [memory],
        "LC": [write_training_log(folder, edits=edits) for edits in (4, 16)],
    }


def test_every_figure_has_three_files(tmp_path: Path) -> None:
    for name, inputs in write_inputs(tmp_path).items():
        made = FIGURES[name](inputs, tmp_path / "figures")
        assert [path.name for path in made] == [
            f"figure_{name}{suffix}" for suffix in (".pdf", ".png", ".csv")
        ]
        assert not pd.read_csv(made[-1]).empty


def test_a_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, inputs in write_inputs(tmp_path).items():
        once, again = (FIGURES[name](inputs, tmp_path / folder) for folder in ("once", "again"))
        for first, second in zip(once, again, strict=True):
            assert first.read_bytes() == second.read_bytes(), f"{name}{first.suffix}"
