from pathlib import Path

import pandas as pd
import pytest
from synthetic import measurements

from malmen.results.memory import COLUMNS, read
from malmen.support.errors import InputError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    frame = measurements()
    frame.to_csv(tmp_path / "memory.csv", index=False)
    pd.testing.assert_frame_equal(read(tmp_path / "memory.csv"), frame)
    assert list(frame) == list(COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a readable CSV file"),
        ("procedure,edits\na,1\n", "no column 'peak_mb'"),
        (f"{','.join(COLUMNS)}\nreading,1,1,1,True,1\n", "'reading' is not one of MALMEN: meta"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "memory.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"memory\.csv: .*{message}"):
        read(path)
    with pytest.raises(InputError, match=r"absent\.csv: no such file"):
        read(tmp_path / "absent.csv")
