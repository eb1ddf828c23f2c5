"""The store of what an unedited language model computes: filled by :mod:`malmen.recording.frozen`.

Three things are kept: the states of token sequences that enter the first edited block; what enters
the language-model head at answers; keys and value gradients at the cached tokens of edit tuples.

A file is mapped into memory. Every read is checked against the checksum of the rows read, so that
nothing has to be read in advance.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from malmen.lm.batches import Example
from malmen.recording.mapped import MappedTensors, Shapes
from malmen.support.errors import InputError

__all__ = ["FORMAT", "Contents", "PrefixStore"]

FORMAT = "malmen-prefix-4"

Key = TypeVar("Key")


@dataclass(frozen=True)
class Contents:
    """What a store keeps, known before anything is run.

    Attributes:
        examples: one of every distinct sequence of token ids, whose states are kept.
        answers: examples, each once, of which it is kept what enters the head.
        edits: edit tuples, each once, whose keys and value gradients are kept.
        cached: by edited layer, the number of cached tokens of every edit tuple.
    """

    examples: Sequence[Example]
    answers: Sequence[Example]
    edits: Sequence[Example]
    cached: Mapping[str, Sequence[int]]

    def index(self) -> dict[str, Tensor]:
        """Return the tensors that say so."""
        sequences = [example.ids for example in self.examples]
        place = {ids: i for i, ids in enumerate(sequences)}
        tensors = {
            "ids": _flat(sequences),
            "lengths": _flat([[len(ids) for ids in sequences]]),
            "cached": _flat(self.cached.values()).view(len(self.cached), len(self.edits)),
        }
        for kind, examples in (("answers", self.answers), ("edits", self.edits)):
            tensors |= {
                f"{kind}.sequences": _flat([[place[example.ids] for example in examples]]),
                f"{kind}.counts": _flat([[len(example.positions) for example in examples]]),
                f"{kind}.positions": _flat(example.positions for example in examples),
                f"{kind}.targets": _flat(example.targets for example in examples),
                f"{kind}.decoder_ids": _flat(example.decoder_ids for example in examples),
            }
        return tensors

    def shapes(
        self,
        *,
        dtype: torch.dtype,
        state: int,
        answer: int,
        layers: Mapping[str, tuple[torch.dtype, int, int]],
    ) -> Shapes:
        """Return dtype and shape of every tensor of the store.

        Args:
            dtype: of the language model.
            state: size of a hidden state.
            answer: size of what enters the head at an answer.
            layers: dtype, d and d' of every edited layer.
        """
        shapes = {name: (part.dtype, tuple(part.shape)) for name, part in self.index().items()}
        shapes |= {"arity": (torch.int64, (1,)), "index.checksum": (torch.int64, (1,))}

        def add(name: str, dtype: torch.dtype, counts: Sequence[int], size: int) -> None:
            shapes[name] = (dtype, (sum(counts), size))
            shapes[_checksums(name)] = (torch.int64, (len(counts),))

        add("states", dtype, [len(example.ids) for example in self.examples], state)
        add("answers", dtype, [len(example.positions) for example in self.answers], answer)
        for layer, (of_layer, *sizes) in layers.items():
            for part, size in zip(_parts(layer), sizes, strict=True):
                add(part, of_layer, self.cached[layer], size)
        return shapes


class PrefixStore:
    """What is kept of token sequences.

    Args:
        tensors: of the shapes of :meth:`Contents.shapes`, with its index; none at all if there was
            no room for them.
        layers: the edited layers, in the order of `cached`.
        source: where the tensors come from, for errors.
        release: lets go of what is in memory of them.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        layers: Sequence[str] = (),
        *,
        source: str = "the prefix store",
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.source, self._tensors, self._releases = source, dict(tensors), [release]
        self._states: dict[tuple[int, ...], _Rows] = {}
        self._answers: dict[Example, _Rows] = {}
        self._keys: dict[tuple[str, Example], _Rows] = {}
        self._gradients: dict[tuple[str, Example], _Rows] = {}
        if not tensors:
            return
        sequences = _split(tensors["ids"], tensors["lengths"])
        self._states = _pieces(tensors, "states", sequences, tensors["lengths"])
        answers, edits = (_examples(tensors, kind, sequences) for kind in ("answers", "edits"))
        self._answers = _pieces(tensors, "answers", answers, tensors["answers.counts"])
        for layer, counts in zip(layers, tensors["cached"], strict=True):
            keys, gradients = _parts(layer)
            names = [(layer, edit) for edit in edits]
            self._keys |= _pieces(tensors, keys, names, counts)
            self._gradients |= _pieces(tensors, gradients, names, counts)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def is_whole(self) -> bool:
        """False if there was no room for the states: nothing can be replayed."""
        return bool(self._tensors)

    @property
    def arity(self) -> int:
        """Length of the tuple that a block of this architecture returns; 0 for states alone."""
        return int(self._tensors["arity"])

    @classmethod
    def merged(cls, stores: "Sequence[PrefixStore]") -> "PrefixStore":
        """Return one store of all that several stores of the same language model hold."""
        whole = cls({}, source=" and ".join(store.source for store in stores))
        for store in stores if all(store.is_whole for store in stores) else ():
            whole._tensors = store._tensors  # any of them: for the arity
            whole._states |= store._states
            whole._answers |= store._answers
            whole._keys |= store._keys
            whole._gradients |= store._gradients
            whole._releases += store._releases
        return whole

    @classmethod
    def load(cls, path: Path, *, model: str) -> "PrefixStore":
        """Map a file of :func:`malmen.recording.frozen.record_prefix`.

        Raises:
            InputError: it is missing, is no prefix store, is damaged, or belongs to another
                language model.
        """
        tensors = MappedTensors(path)
        about = tensors.metadata
        if about.get("format") != FORMAT or about.get("model") != model:
            raise InputError(
                f"{path}: not a prefix store of {model} (it says {about}); make it again "
                "with `malmen prefix`"
            )
        if tensors and tensors["index.checksum"].item() != _index_checksum(tensors):
            raise _damaged(str(path))
        return cls(tensors, about["layers"], source=str(path), release=tensors.release)

    # --- reading ---

    def padded(self, sequences: Iterable[tuple[int, ...]]) -> Tensor:
        """Return the states of a batch, (b, t, h), padded with zeros on the right.

        Raises:
            InputError: a sequence was not stored, or its states are damaged.
        """
        rows = []
        for ids in sequences:
            if ids not in self._states:
                raise InputError(
                    f"the prefix store holds no sequence {ids[:8]}...: it was made from other "
                    "facts or another tokenizer; make it again with `malmen prefix`"
                )
            rows.append(self._states[ids].read(self.source))
        padded = pad_sequence(rows, batch_first=True)
        self._release()
        return padded

    def answers(self, examples: Iterable[Example]) -> Tensor | None:
        """Return what enters the head at the answers of a batch, (answers, h).

        Of a fact checker it is the logits themselves, (claims, 1), which are smaller.

        Returns:
            None unless that of all examples is stored.

        Raises:
            InputError: what is stored is damaged.
        """
        return self._joined(self._answers.get(example) for example in examples)

    def tokens(self, examples: Sequence[Example], layer: str) -> tuple[Tensor, Tensor] | None:
        """Return keys (n, d) and value gradients (n, d') of a batch of edit tuples at a layer.

        Returns:
            None unless those of all examples are stored.

        Raises:
            InputError: what is stored is damaged.
        """
        keys = self._joined(self._keys.get((layer, example)) for example in examples)
        gradients = self._joined(self._gradients.get((layer, example)) for example in examples)
        return None if keys is None or gradients is None else (keys, gradients)

    def _joined(self, pieces: "Iterable[_Rows | None]") -> Tensor | None:
        whole = []
        for rows in pieces:
            if rows is None:
                return None
            whole.append(rows.read(self.source))
        joined = torch.cat(whole)
        self._release()
        return joined

    def _release(self) -> None:
        for release in self._releases:
            release()

    # --- writing ---

    @classmethod
    def blank(
        cls,
        tensors: Mapping[str, Tensor],
        contents: Contents,
        *,
        release: Callable[[], None] = lambda: None,
    ) -> "PrefixStore":
        """Return a store to be filled, in tensors of the shapes of :meth:`Contents.shapes`."""
        for name, values in contents.index().items():
            tensors[name].copy_(values)
        return cls(tensors, list(contents.cached), release=release)

    def put_states(self, examples: Sequence[Example], states: Tensor) -> None:
        """Keep the states (b, t, h) of a batch."""
        for example, rows in zip(examples, states.cpu(), strict=True):
            self._states[example.ids].write(rows[: len(example.ids)])
        self._release()

    def put_answers(self, examples: Sequence[Example], inputs: Tensor) -> None:
        """Keep what enters the head at the answers of a batch, (answers, h)."""
        _write([self._answers[example] for example in examples], inputs)
        self._release()

    def put_tokens(
        self, examples: Sequence[Example], layer: str, keys: Tensor, gradients: Tensor
    ) -> None:
        """Keep keys (n, d) and value gradients (n, d') of a batch of edit tuples at a layer."""
        _write([self._keys[layer, example] for example in examples], keys)
        _write([self._gradients[layer, example] for example in examples], gradients)
        self._release()

    def finish(self, *, arity: int) -> None:
        """Write what is known at the end."""
        self._tensors["arity"].fill_(arity)
        self._tensors["index.checksum"].fill_(_index_checksum(self._tensors))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Consecutive rows of a tensor, with their checksum."""

    tensor: Tensor
    start: int
    count: int
    checksums: Tensor
    number: int

    def read(self, source: str) -> Tensor:
        rows = self.tensor[self.start : self.start + self.count]
        if _checksum(rows) != self.checksums[self.number]:
            raise _damaged(source)
        return rows

    def write(self, values: Tensor) -> None:
        rows = self.tensor[self.start : self.start + self.count]
        rows.copy_(values)
        self.checksums[self.number] = _checksum(rows)


def _pieces(
    tensors: Mapping[str, Tensor], name: str, keys: Iterable[Key], counts: Tensor
) -> dict[Key, _Rows]:
    """Return the rows of a tensor that belong to each key, one after the other."""
    tensor, checksums = tensors[name], tensors[_checksums(name)]
    starts = (counts.cumsum(0) - counts).tolist()
    places = enumerate(zip(starts, counts.tolist(), strict=True))
    rows = (_Rows(tensor, start, count, checksums, number) for number, (start, count) in places)
    return dict(zip(keys, rows, strict=True))


def _write(places: Sequence[_Rows], values: Tensor) -> None:
    pieces = values.cpu().split([rows.count for rows in places])
    for rows, piece in zip(places, pieces, strict=True):
        rows.write(piece)


def _examples(
    tensors: Mapping[str, Tensor], kind: str, sequences: Sequence[tuple[int, ...]]
) -> list[Example]:
    counts, decoder_ids = tensors[f"{kind}.counts"], tensors[f"{kind}.decoder_ids"]
    parts = zip(
        [sequences[i] for i in tensors[f"{kind}.sequences"].tolist()],
        _split(tensors[f"{kind}.positions"], counts),
        _split(tensors[f"{kind}.targets"], counts),
        _split(decoder_ids, counts if len(decoder_ids) else 0 * counts),
        strict=True,
    )
    return [Example(*part) for part in parts]


def _flat(values: Iterable[Sequence[int]]) -> Tensor:
    return torch.tensor([v for value in values for v in value], dtype=torch.int32)


def _split(values: Tensor, counts: Tensor) -> list[tuple[int, ...]]:
    return [tuple(piece.tolist()) for piece in values.split(counts.tolist())]


def _parts(layer: str) -> tuple[str, str]:
    return f"{layer}.keys", f"{layer}.gradients"


def _checksums(name: str) -> str:
    return f"{name}.checksums"


def _checksum(rows: Tensor) -> int:
    return zlib.crc32(rows.contiguous().view(torch.uint8).numpy().data)


def _index_checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return the checksum of all that has no checksums of its own."""
    names = sorted(name for name in tensors if _checksums(name) not in tensors)
    names.remove("index.checksum")
    return zlib.crc32(b"".join(tensors[name].numpy().tobytes() for name in names))


def _damaged(source: str) -> InputError:
    return InputError(f"{source}: damaged (a checksum differs); make it again with `malmen prefix`")
