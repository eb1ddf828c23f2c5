"""The store of what an unedited language model computes: filled by :mod:`malmen.recording.frozen`.

Three things are kept: the states of token sequences that enter the first edited block; what enters
the language-model head at answers; keys and value gradients at the cached tokens of edit tuples.

A file is mapped into memory. Every read is checked against the checksum of what was read, so that
nothing has to be read in advance.
"""

import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from malmen.lm.batches import Example
from malmen.recording.mapped import MappedTensors, Shapes
from malmen.support.errors import InputError

__all__ = ["FORMAT", "Contents", "PrefixStore", "names_at"]

FORMAT = "malmen-prefix-5"

Owners = Mapping[Hashable, int]
"""The number of the piece of a tensor that belongs to a sequence or an example."""


@dataclass(frozen=True)
class Contents:
    """What a store keeps, known before anything is run.

    Attributes:
        sequences: every distinct sequence of token ids, whose states are kept.
        answers: examples, each once, of which it is kept what enters the head.
        edits: how many of them, the first ones, are edit tuples, whose keys and value gradients
            are kept.
        layers: by edited layer, whether every token of the input is cached, or one an answer.
    """

    sequences: Sequence[tuple[int, ...]]
    answers: Sequence[Example]
    edits: int
    layers: Mapping[str, bool]

    def index(self) -> Tensor:
        """Return the bytes that :meth:`of_index` reads this from."""
        place = {ids: i for i, ids in enumerate(self.sequences)}
        answers = [(place[e.ids], e.positions, e.targets, e.decoder_ids) for e in self.answers]
        about = {**vars(self), "answers": answers}
        return torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)

    @classmethod
    def of_index(cls, index: Tensor) -> "Contents":
        """Return what an index says."""
        about = json.loads(index.numpy().tobytes())
        sequences = [tuple(ids) for ids in about.pop("sequences")]
        answers = [Example(sequences[i], *map(tuple, rest)) for i, *rest in about.pop("answers")]
        return cls(sequences, answers, **about)

    def parts(self) -> "dict[str, tuple[Owners, list[int]]]":
        """Return by tensor whose its pieces are, and how many vectors each has."""
        edits = self.answers[: self.edits]
        of_answers, of_edits = _numbers(self.answers), _numbers(edits)
        parts = {
            "states": (_numbers(self.sequences), [len(ids) for ids in self.sequences]),
            "answers": (of_answers, [len(example.positions) for example in self.answers]),
        }
        for layer, caches_input in self.layers.items():
            counts = [len(edit.ids if caches_input else edit.positions) for edit in edits]
            parts |= dict.fromkeys(names_at(layer), (of_edits, counts))
        return parts

    def shapes(self, sizes: Mapping[str, tuple[torch.dtype, int]]) -> Shapes:
        """Return dtype and shape of every tensor of the store.

        Args:
            sizes: by the name of a part, dtype and size of a vector.
        """
        shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "index": (torch.uint8, tuple(self.index().shape)),
            "index.checksum": (torch.int64, (1,)),
            "arity": (torch.int64, (1,)),
        }
        for name, (_, counts) in self.parts().items():
            dtype, size = sizes[name]
            shapes[name] = (dtype, (sum(counts), size))
            shapes[_checksums(name)] = (torch.int64, (len(counts),))
        return shapes


class PrefixStore:
    """What is kept of token sequences.

    Args:
        tensors: of the shapes of :meth:`Contents.shapes`, with its index; none at all if there was
            no room for them.
        contents: what the index says.
        source: where the tensors come from, for errors.
        release: lets go of what is in memory of them.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor] | None = None,
        contents: Contents | None = None,
        *,
        source: str = "the prefix store",
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.source, self._tensors, self._releases = source, dict(tensors or {}), [release]
        self._parts: dict[str, list[_Part]] = defaultdict(list)  # by tensor, of every store merged
        for name, (numbers, counts) in contents.parts().items() if contents else ():
            bounds = [0, *accumulate(counts)]
            vectors, checksums = self._tensors[name], self._tensors[_checksums(name)]
            self._parts[name].append(_Part(vectors, checksums, bounds, numbers))

    def __len__(self) -> int:
        return len({ids for part in self._parts["states"] for ids in part.numbers})

    @property
    def is_whole(self) -> bool:
        """False if there was no room for the states: nothing can be replayed."""
        return bool(self._tensors)

    @property
    def arity(self) -> int:
        """Length of the tuple that a block of this architecture returns; 0 for states alone."""
        return int(self._tensors["arity"])

    @classmethod
    def blank(
        cls,
        tensors: Mapping[str, Tensor],
        contents: Contents,
        *,
        release: Callable[[], None] = lambda: None,
    ) -> "PrefixStore":
        """Return a store to be filled, in tensors of the shapes of :meth:`Contents.shapes`."""
        tensors["index"].copy_(contents.index())
        return cls(tensors, contents, release=release)

    @classmethod
    def merged(cls, stores: "Sequence[PrefixStore]") -> "PrefixStore":
        """Return one store of all that several stores of the same language model hold."""
        whole = cls(source=" and ".join(store.source for store in stores))
        for store in stores if all(store.is_whole for store in stores) else ():
            whole._tensors = store._tensors  # any of them: for the arity
            whole._releases += store._releases
            for name, parts in store._parts.items():
                whole._parts[name] += parts
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
        if not tensors:
            return cls(source=str(path))
        if tensors["index.checksum"].item() != _index_checksum(tensors):
            raise _damaged(str(path))
        contents = Contents.of_index(tensors["index"])
        return cls(tensors, contents, source=str(path), release=tensors.release)

    def padded(self, sequences: Iterable[tuple[int, ...]]) -> Tensor:
        """Return the states of a batch, (b, t, h), padded with zeros on the right.

        Raises:
            InputError: a sequence was not stored, or its states are damaged.
        """
        states = []
        for ids in sequences:
            piece = self._piece("states", ids)
            if piece is None:
                raise InputError(
                    f"the prefix store holds no sequence {ids[:8]}...: it was made from other "
                    "facts or another tokenizer; make it again with `malmen prefix`"
                )
            states.append(piece)
        padded = pad_sequence(states, batch_first=True)
        self._release()
        return padded

    def answers(self, examples: Sequence[Example]) -> Tensor | None:
        """Return what enters the head at the answers of a batch, (answers, h).

        Of a fact checker it is the logits themselves, (claims, 1), which are smaller.

        Returns:
            None unless that of all examples is stored.

        Raises:
            InputError: what is stored is damaged.
        """
        return self._joined("answers", examples)

    def recorded(self, examples: Sequence[Example], layer: str) -> tuple[Tensor, Tensor] | None:
        """Return keys (n, d) and value gradients (n, d') of a batch of edit tuples at a layer.

        Returns:
            None unless those of all examples are stored.

        Raises:
            InputError: what is stored is damaged.
        """
        keys, gradients = (self._joined(name, examples) for name in names_at(layer))
        return None if keys is None or gradients is None else (keys, gradients)

    def put(self, name: str, owners: Iterable[Hashable], vectors: Tensor) -> None:
        """Keep what was computed of a batch.

        Args:
            name: "states", "answers", or one of :func:`names_at` a layer.
            owners: sequences of token ids, whose states these are, or examples.
            vectors: (n, size), one owner's after another's.
        """
        [part] = self._parts[name]
        rest = vectors.cpu()
        for owner in owners:
            rest = part.write(owner, rest)
        self._release()

    def finish(self, *, arity: int) -> None:
        """Write what is known at the end."""
        self._tensors["arity"].fill_(arity)
        self._tensors["index.checksum"].fill_(_index_checksum(self._tensors))

    def _piece(self, name: str, owner: Hashable) -> Tensor | None:
        for part in self._parts[name]:
            if owner in part.numbers:
                return part.read(owner, self.source)
        return None

    def _joined(self, name: str, owners: Iterable[Hashable]) -> Tensor | None:
        pieces = []
        for owner in owners:
            piece = self._piece(name, owner)
            if piece is None:
                return None
            pieces.append(piece)
        joined = torch.cat(pieces)
        self._release()
        return joined

    def _release(self) -> None:
        for release in self._releases:
            release()


@dataclass(frozen=True)
class _Part:
    """A tensor of vectors, piece after piece, the checksum of each, and whose they are."""

    vectors: Tensor
    checksums: Tensor
    bounds: Sequence[int]
    numbers: Owners

    def piece(self, number: int) -> Tensor:
        return self.vectors[self.bounds[number] : self.bounds[number + 1]]

    def read(self, owner: Hashable, source: str) -> Tensor:
        piece = self.piece(self.numbers[owner])
        if _checksum(piece) != self.checksums[self.numbers[owner]]:
            raise _damaged(source)
        return piece

    def write(self, owner: Hashable, values: Tensor) -> Tensor:
        """Write a piece, and return the values behind it."""
        piece = self.piece(self.numbers[owner])
        piece.copy_(values[: len(piece)])
        self.checksums[self.numbers[owner]] = _checksum(piece)
        return values[len(piece) :]


def _numbers(owners: Iterable[Hashable]) -> Owners:
    return {owner: number for number, owner in enumerate(owners)}


def names_at(layer: str) -> tuple[str, str]:
    """Return the names of what is kept at an edited layer: keys, and value gradients."""
    return f"{layer}.keys", f"{layer}.gradients"


def _checksums(name: str) -> str:
    return f"{name}.checksums"


def _checksum(vectors: Tensor) -> int:
    return zlib.crc32(vectors.contiguous().view(torch.uint8).numpy().data)


def _index_checksum(tensors: Mapping[str, Tensor]) -> int:
    return zlib.crc32(tensors["arity"].numpy().data, _checksum(tensors["index"]))


def _damaged(source: str) -> InputError:
    return InputError(f"{source}: damaged (a checksum differs); make it again with `malmen prefix`")
