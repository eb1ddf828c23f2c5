"""What an unedited language model computes, stored once and replayed.

Nothing below the first edited block ever changes, so its output for a token sequence is the same
in every step, editor and count. The states of all distinct sequences are stored once; the lower
blocks are then replaced by modules that hand the stored states to the first edited block, and the
language model's own forward does the rest. Of some examples, what enters the language-model head
at their answers is stored, too: the logits before an edit then cost the head alone.

A file of states is mapped into memory. Every read is checked against the checksum of the rows
read, so that nothing has to be read in advance.
"""

import logging
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.t5.modeling_t5 import T5Block

from malmen.batches import Batch, Example
from malmen.errors import InputError
from malmen.files import atomic
from malmen.mapped import MappedTensors, Shapes, file_size
from malmen.models.blocks import blocks_of, run_through, run_whole
from malmen.models.language_model import LanguageModel
from malmen.progress import Progress

__all__ = ["PrefixStore", "record_prefix", "replay"]

FORMAT = "malmen-prefix-3"

RESERVE = 2**30
"""Bytes of a disk that a file of states leaves free."""

logger = logging.getLogger(__name__)

Asked = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""What the states at answers depend on: token ids, positions, token ids of the decoder."""


class PrefixStore:
    """States entering the first edited block, and what enters the head at answers.

    Args:
        tensors: as :func:`record_prefix` makes them (:func:`_shapes` says which there are).
        source: where they come from, for errors.
        release: lets go of what has been read into memory.

    Attributes:
        is_whole: false if there was no room for the states: nothing can be replayed.
        arity: length of the tuple that a block of this architecture returns; 0 for states alone.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        source: str = "the prefix store",
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_whole = bool(tensors)
        self.source, self._releases = source, [release]
        self._states: dict[tuple[int, ...], _Rows] = {}
        self._answers: dict[Asked, _Rows] = {}
        if self.is_whole:
            self.arity = int(tensors["arity"])
            sequences = _split(tensors["ids"], tensors["lengths"])
            rows = _rows(tensors["states"], tensors["lengths"], tensors["state_checksums"])
            self._states = dict(zip(sequences, rows, strict=True))
            counts = tensors["answer_counts"]
            asked = zip(
                [sequences[i] for i in tensors["answered"].tolist()],
                _split(tensors["positions"], counts),
                _split(
                    tensors["decoder_ids"], counts if len(tensors["decoder_ids"]) else 0 * counts
                ),
                strict=True,
            )
            rows = _rows(tensors["answers"], counts, tensors["answer_checksums"])
            self._answers = dict(zip(asked, rows, strict=True))

    def __len__(self) -> int:
        return len(self._states)

    @classmethod
    def merged(cls, stores: "Sequence[PrefixStore]") -> "PrefixStore":
        """Return one store of all that several stores of the same language model hold."""
        whole = cls({}, source=" and ".join(store.source for store in stores))
        whole.is_whole = all(store.is_whole for store in stores)
        for store in stores if whole.is_whole else ():
            whole.arity = store.arity
            whole._states |= store._states
            whole._answers |= store._answers
            whole._releases += store._releases
        return whole

    @classmethod
    def load(cls, path: Path, *, model: str) -> "PrefixStore":
        """Map a file of :func:`record_prefix`.

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
        if tensors and tensors["index_checksum"].item() != _index_checksum(tensors):
            raise _damaged(str(path))
        return cls(tensors, source=str(path), release=tensors.release)

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
        rows = [self._answers.get(_asked(example)) for example in examples]
        found = [row.read(self.source) for row in rows if row is not None]
        answers = torch.cat(found) if found and len(found) == len(rows) else None
        self._release()
        return answers

    def _release(self) -> None:
        for release in self._releases:
            release()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Consecutive rows of a tensor, with their checksum."""

    tensor: Tensor
    start: int
    count: int
    checksum: int

    def read(self, source: str) -> Tensor:
        rows = self.tensor[self.start : self.start + self.count]
        if _checksum(rows) != self.checksum:
            raise _damaged(source)
        return rows


def _rows(tensor: Tensor, counts: Tensor, checksums: Tensor) -> list[_Rows]:
    starts = (counts.cumsum(0) - counts).tolist()
    return [
        _Rows(tensor, *row) for row in zip(starts, counts.tolist(), checksums.tolist(), strict=True)
    ]


def _split(values: Tensor, counts: Tensor) -> list[tuple[int, ...]]:
    return [tuple(piece.tolist()) for piece in values.split(counts.tolist())]


def _asked(example: Example) -> Asked:
    return example.ids, example.positions, example.decoder_ids


def _checksum(rows: Tensor) -> int:
    return zlib.crc32(rows.contiguous().view(torch.uint8).numpy().data)


def _index_checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return the checksum of all that is no state: the index, which has a checksum of its own."""
    names = sorted(set(tensors) - {"states", "answers", "index_checksum"})
    return zlib.crc32(b"".join(tensors[name].numpy().tobytes() for name in names))


def _damaged(source: str) -> InputError:
    return InputError(f"{source}: damaged (a checksum differs); make it again with `malmen prefix`")


@torch.no_grad()
def record_prefix(
    lm: LanguageModel,
    examples: Iterable[Example],
    *,
    answered: Iterable[Example] = (),
    path: Path | None = None,
    fact_batch: int = 32,
    progress: bool = True,
) -> PrefixStore:
    """Run the frozen blocks once over every distinct sequence.

    Args:
        lm: the language model, all blocks present.
        examples: repeated sequences are run once.
        answered: those of the examples that are run to the end, so that what enters the head at
            their answers is stored, too.
        path: file that everything is written to as it is computed; in memory without one. If the
            disk has no room for it, the file says so and holds nothing else.
        fact_batch: sequences at a time.
        progress: show progress.

    Returns:
        The store, states in the model's dtype.
    """
    whole = list({_asked(example): example for example in answered}.values())
    of_sequence = {example.ids: example for example in (*examples, *whole)}
    index = _index(list(of_sequence), whole)
    shapes = _shapes(lm, index)
    to_the_end = {example.ids for example in whole}
    lower = [example for ids, example in of_sequence.items() if ids not in to_the_end]
    run = partial(_run, lm, lower, whole, size=fact_batch, progress=progress)
    if path is None:
        tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
        run(_Recorder(tensors, index, of_sequence, whole))
        return PrefixStore(tensors)
    about = {"format": FORMAT, "model": lm.entry.name}
    with atomic(path) as temporary:
        has_room = _has_room(path, file_size(shapes))
        mapped = MappedTensors.create(temporary, shapes if has_room else {}, about)
        if has_room:
            run(_Recorder(mapped, index, of_sequence, whole, release=mapped.release))
    return PrefixStore.load(path, model=lm.entry.name)


def _index(sequences: list[tuple[int, ...]], whole: list[Example]) -> dict[str, Tensor]:
    """Return the tensors that say whose states are stored."""
    place = {ids: i for i, ids in enumerate(sequences)}

    def flat(*values: Sequence[int]) -> Tensor:
        return torch.tensor([v for value in values for v in value], dtype=torch.int32)

    return {
        "ids": flat(*sequences),
        "lengths": flat([len(ids) for ids in sequences]),
        "answered": flat([place[example.ids] for example in whole]),
        "answer_counts": flat([len(example.positions) for example in whole]),
        "positions": flat(*(example.positions for example in whole)),
        "decoder_ids": flat(*(example.decoder_ids for example in whole)),
    }


def _shapes(lm: LanguageModel, index: Mapping[str, Tensor]) -> Shapes:
    """Return dtype and shape of every tensor of a store: known before anything is run."""
    config, dtype = lm.model.config, lm.model.dtype
    width = config.hidden_size if lm.entry.rows == "zsre" else config.num_labels
    return {
        **{name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in index.items()},
        "states": (dtype, (len(index["ids"]), config.hidden_size)),
        "answers": (dtype, (len(index["positions"]), width)),
        "arity": (torch.int64, (1,)),
        "state_checksums": (torch.int64, (len(index["lengths"]),)),
        "answer_checksums": (torch.int64, (len(index["answered"]),)),
        "index_checksum": (torch.int64, (1,)),
    }


def _has_room(path: Path, size: int) -> bool:
    """Tell whether the disk has room for a file; say so if it has not."""
    free = shutil.disk_usage(path.parent).free
    if size + RESERVE <= free:
        return True
    logger.warning(
        "%s: would take %.1f GB, and the disk has %.1f GB free: the frozen blocks will run again "
        "every time (after making space, make it again with `malmen prefix`)",
        *(path, size / 1e9, free / 1e9),
    )
    return False


class _Recorder:
    """Writes rows to their places in the tensors of a store, with their checksums."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        index: Mapping[str, Tensor],
        sequences: Iterable[tuple[int, ...]],
        whole: Iterable[Example],
        *,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        for name, values in index.items():
            tensors[name].copy_(values)
        self._tensors, self._release = tensors, release
        self._states = dict(zip(sequences, _places(index["lengths"]), strict=True))
        asked = map(_asked, whole)
        self._answers = dict(zip(asked, _places(index["answer_counts"]), strict=True))

    def states(self, batch: Batch, states: Tensor) -> None:
        """Keep the states (b, t, h) of a batch."""
        for example, rows in zip(batch.examples, states.cpu(), strict=True):
            self._put("state", self._states[example.ids], rows[: len(example.ids)])
        self._release()

    def answers(self, batch: Batch, inputs: Tensor) -> None:
        """Keep what enters the head at the answers of a batch."""
        counts = [len(example.positions) for example in batch.examples]
        for example, rows in zip(batch.examples, inputs.cpu().split(counts), strict=True):
            self._put("answer", self._answers[_asked(example)], rows)

    def finish(self, *, arity: int) -> None:
        """Write what is known at the end."""
        self._tensors["arity"].fill_(arity)
        self._tensors["index_checksum"].fill_(_index_checksum(self._tensors))

    def _put(self, kind: str, place: tuple[int, int, int], rows: Tensor) -> None:
        number, start, stop = place
        kept = self._tensors[f"{kind}s"][start:stop]
        kept.copy_(rows)
        self._tensors[f"{kind}_checksums"][number] = _checksum(kept)


def _places(counts: Tensor) -> list[tuple[int, int, int]]:
    """Return number, first row and row behind the last of consecutive pieces."""
    ends = counts.cumsum(0)
    numbers = range(len(counts))
    return list(zip(numbers, (ends - counts).tolist(), ends.tolist(), strict=True))


def _run(
    lm: LanguageModel,
    lower: Sequence[Example],
    whole: Sequence[Example],
    recorder: _Recorder,
    *,
    size: int,
    progress: bool,
) -> None:
    """Run some examples up to the first edited block, and others to the end."""
    _check_frozen(lm)
    last, arity = lm.entry.frozen - 1, 0
    tokens = sum(len(example.ids) for example in (*lower, *whole))
    stage = f"frozen prefix of {lm.entry.title}"
    with Progress(stage, total=tokens, unit="tokens", show=progress) as bar:
        for batch in lm.batches(whole, size=size):
            with _head_inputs(lm) as inputs:
                logits, output = run_whole(lm, batch, last)
            recorder.answers(batch, *inputs or [logits])
            recorder.states(batch, output.states)
            arity = output.arity
            bar.update(int(batch.attention_mask.sum()))
        for batch in lm.batches(lower, size=size):
            output = run_through(lm, batch, last)
            recorder.states(batch, output.states)
            arity = output.arity
            bar.update(int(batch.attention_mask.sum()))
    recorder.finish(arity=arity)


@contextmanager
def _head_inputs(lm: LanguageModel) -> Iterator[list[Tensor]]:
    """Yield a list of what enters the language-model head; a fact checker has no such head."""
    inputs: list[Tensor] = []

    def keep(head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        inputs.append(args[0])
        return (args[0][:0],)  # nobody reads the logits

    if lm.entry.rows == "fever":
        yield inputs
        return
    handle = lm.model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield inputs
    finally:
        handle.remove()


def replay(lm: LanguageModel, store: PrefixStore) -> None:
    """Make ``lm`` start from stored states; its frozen blocks are dropped from memory.

    From now on every sequence that ``lm`` runs has to be in the store. A store that had no room
    for its states leaves the language model as it is.
    """
    if not store.is_whole:
        return
    _check_frozen(lm)
    blocks, first = blocks_of(lm), lm.entry.frozen
    frozen = tuple(f"{lm.entry.blocks}.{index}." for index in range(first))
    if below := [layer for layer in lm.layers if layer.startswith(frozen)]:
        raise InputError(f"{below[0]} lies in a frozen block: edit it without a prefix store")
    stored = _Stored(arity=store.arity)
    _hand_on_position_bias(blocks[0], blocks[first])
    for index in range(first):  # the list keeps its length: some models look up blocks by index
        blocks[index] = stored

    def look_up(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        masks = kwargs["attention_mask"].bool()
        sequences = (
            tuple(ids[mask].tolist()) for ids, mask in zip(kwargs["input_ids"], masks, strict=True)
        )
        stored.states = store.padded(sequences).to(lm.device)

    lm.model.register_forward_pre_hook(look_up, with_kwargs=True)
    lm.stored_answers = store.answers


def _hand_on_position_bias(lowest: Any, remaining: Any) -> None:
    """Let the lowest block that remains compute what T5's first block computes for all."""
    if isinstance(lowest, T5Block):
        source: Any = lowest.layer[0]
        source, target = source.SelfAttention, remaining.layer[0].SelfAttention
        target.relative_attention_bias = source.relative_attention_bias
        target.has_relative_attention_bias = True


class _Stored(nn.Module):
    """Stands in for every frozen block: whatever comes in, the stored states go out."""

    def __init__(self, *, arity: int) -> None:
        super().__init__()
        self.states: Tensor | None = None
        self.arity = arity

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return (self.states, *[None] * (self.arity - 1)) if self.arity else self.states


def _check_frozen(lm: LanguageModel) -> None:
    if lm.entry.frozen == 0:
        raise InputError(f"{lm.entry.name}: block 0 is edited, so no block is frozen below it")
