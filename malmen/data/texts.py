"""Texts that statistics of a language model are computed over."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from malmen.data.raw_rows import decoded, read_raw_rows
from malmen.support.errors import InputError

__all__ = ["read_texts", "stream_dataset"]


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file: the lines of a ``.txt``, the field ``text`` of a ``.jsonl``.

    Either may be gzipped.

    Raises:
        InputError: the file is missing, is neither, or is not UTF-8.
    """
    if path.name.removesuffix(".gz").endswith(".txt"):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if text := decoded(line, str(path), line=number).strip():
                    yield text
    else:
        yield from (raw.text("text") for raw in read_raw_rows(path))


def stream_dataset(name: str, *, seed: int) -> Iterator[str]:
    """Yield the texts of a data set of the Hugging Face hub in a random order.

    Files are read piece by piece, in the pieces that they are stored in (row groups), and what is
    not read is not downloaded; nor is anything kept on disk. The pieces are drawn from all files;
    texts are mixed among ten pieces at a time, so that those of a piece are spread, not scattered.
    The hub's client asks again where a connection breaks or a server is busy. For the paper's
    statistics, 100,000 samples of Wikipedia, give ``wikimedia/wikipedia:20231101.en``.

    Args:
        name: NAME or NAME:CONFIGURATION; its training split has to have a field ``text``.
        seed: of the order.

    Raises:
        InputError: there is no such configuration, no training split, or no field ``text`` in it.
        OSError: there is no such data set, or the hub cannot be reached.
    """
    from datasets import load_dataset

    path, _, configuration = name.partition(":")
    try:
        rows = load_dataset(path, configuration or None, split="train", streaming=True)
    except ValueError as error:
        raise InputError(f"data set {name}: {error}") from error
    for row in rows.reshard().shuffle(seed=seed):
        if "text" not in row:
            raise InputError(f"data set {name}: no field 'text', but {', '.join(map(repr, row))}")
        yield row["text"]
