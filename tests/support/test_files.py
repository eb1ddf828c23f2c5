import hashlib
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from malmen.support.files import (
    atomic,
    atomic_folder,
    git_blob_id,
    sha256,
    write_safetensors,
)


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


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_are_for_whoever_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_safetensors(tmp_path / "one.safetensors", {"a": torch.ones(1)}, {})
        with atomic_folder(tmp_path / "lm") as made:
            save_file({"a": torch.ones(1)}, made / "model.safetensors")
    finally:
        os.umask(before)
    for file in (tmp_path / "one.safetensors", tmp_path / "lm" / "model.safetensors"):
        assert file.stat().st_mode & 0o777 == mode


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "data.csv"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lm"
    for content in ("old", "new"):
        with atomic_folder(path) as made:
            (made / content).touch()
            assert not (path / content).exists()
        assert [file.name for file in path.iterdir()] == [content]
    with pytest.raises(ValueError, match="half"), atomic_folder(path) as made:  # noqa: PT012
        (made / "half").touch()
        raise ValueError("half")
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"one line\n", bytes(range(256)) * 5000])
def test_digests_are_those_of_sha256_and_git(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()
    git = subprocess.run(
        ["git", "hash-object", "--no-filters", path], capture_output=True, text=True, check=True
    )
    assert git_blob_id(path) == git.stdout.strip()
