from pathlib import Path

import pytest

from malmen.files import atomic


def test_the_file_appears_whole_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "data.csv"
    with atomic(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
    assert path.read_text(encoding="utf-8") == "half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error), atomic(path) as temporary:  # noqa: PT012
        temporary.write_text("half", encoding="utf-8")
        raise error
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "data.csv"):
        pass
    assert not list(tmp_path.iterdir())
