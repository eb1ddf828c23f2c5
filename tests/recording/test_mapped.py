import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from malmen.recording.mapped import MappedTensors
from malmen.support.errors import InputError
from malmen.support.files import read_safetensors

DTYPES = [torch.float64, torch.int64, torch.float32, torch.int32, torch.bfloat16, torch.float16]

shapes = st.dictionaries(
    st.text("abcé.", min_size=1, max_size=5),
    st.tuples(
        st.sampled_from(DTYPES), st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)
    ),
    max_size=5,
)


@given(shapes=shapes, seed=st.integers(0, 100))
def test_what_is_filled_in_is_what_the_library_reads(
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted = {
        name: torch.randint(-9, 9, shape, generator=generator).to(dtype)
        for name, (dtype, shape) in shapes.items()
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tensors.safetensors"
        made = MappedTensors.create(path, shapes, {"seed": seed})
        assert all(not tensor.any() for tensor in made.values())
        for name, tensor in wanted.items():
            made[name].copy_(tensor)
            made.release()
        read, metadata = read_safetensors(path)
        mapped = MappedTensors(path)
        assert metadata == mapped.metadata == {"seed": seed}
        for found in (read, mapped, load_file(path)):
            assert found.keys() == wanted.keys()
            for name, tensor in wanted.items():
                assert found[name].dtype == tensor.dtype
                assert torch.equal(found[name], tensor)


def test_what_the_library_writes_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3)}, path, metadata={"malmen": json.dumps([1])})
    mapped = MappedTensors(path)
    assert mapped.metadata == [1]
    assert mapped["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_file_that_is_only_read_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    MappedTensors.create(path, {"a": (torch.float32, (3,))}, {})
    before = path.read_bytes()
    MappedTensors(path)["a"].fill_(7)
    assert path.read_bytes() == before


def test_no_room_on_the_disk_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"space|large"):
        MappedTensors.create(tmp_path / "a.st", {"a": (torch.float32, (2**56,))}, {})


@pytest.mark.parametrize("content", [b"", b"not tensors at all"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tensors.safetensors"
    with pytest.raises(InputError, match=r"tensors\.safetensors: no such file"):
        MappedTensors(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tensors\.safetensors: not a safetensors file"):
        MappedTensors(path)
