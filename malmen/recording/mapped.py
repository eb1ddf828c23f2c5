"""Safetensors files whose tensors are mapped into memory: written and read piece by piece."""

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from malmen.support.errors import InputError
from malmen.support.files import METADATA

__all__ = ["MappedTensors", "Shapes"]

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Dtype and shape of tensors by name."""

_DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 8


class MappedTensors(Mapping[str, Tensor]):
    """The tensors of one file; what is used of them is read, and may be let go again.

    Processes that map the same file share what is in memory of it.

    Args:
        path: a safetensors file.
        writable: whether what is written to a tensor is written to the file; otherwise it stays
            with this process.

    Attributes:
        metadata: what was handed to :meth:`create`.

    Raises:
        InputError: the file is missing, or is no safetensors file.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.metadata = _metadata(path)
        with path.open("r+b" if writable else "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_COPY
            self._map = mmap.mmap(file.fileno(), 0, access=access)
        self._tensors: dict[str, Tensor] = {}
        for name, about in header.items():
            if name != "__metadata__":
                begin = 8 + size + about["data_offsets"][0]
                self._tensors[name] = self._view(_DTYPES[about["dtype"]], about["shape"], begin)

    @classmethod
    def create(cls, path: Path, shapes: Shapes, metadata: Any) -> "MappedTensors":
        """Write a file of zeros, to be filled in; its space is taken at once.

        Raises:
            OSError: there is no space for it.
        """
        head = _header(shapes, metadata)
        with path.open("wb") as file:
            file.write(head)
            total = len(head) + file_size(shapes)
            if hasattr(os, "posix_fallocate"):  # a full disk would otherwise end the process later
                os.posix_fallocate(file.fileno(), 0, total)
            else:
                file.truncate(total)
        return cls(path, writable=True)

    def release(self) -> None:
        """Let go of what is in memory: it is read again from the file when it is used."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _view(self, dtype: torch.dtype, shape: list[int], begin: int) -> Tensor:
        count = math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=begin).view(shape)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def file_size(shapes: Shapes) -> int:
    """Return the bytes that tensors take."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in shapes.values())


def _header(shapes: Shapes, metadata: Any) -> bytes:
    """Return what stands before the tensors; wider ones come first, so that all are aligned."""
    content: dict[str, Any] = {"__metadata__": {METADATA: json.dumps(metadata)}}
    end = 0
    for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: -item[1][0].itemsize):
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        content[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _metadata(path: Path) -> Any:
    """Return the metadata of a file that the library of safetensors finds whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
