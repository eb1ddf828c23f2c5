"""Language models as commands load them: with their libraries quiet, from stored states."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
import transformers

from malmen.data.rows import read_rows
from malmen.lm import onednn
from malmen.lm.batches import Example
from malmen.lm.catalogue import Modules, catalogue, lookup
from malmen.lm.device import choose_device
from malmen.lm.encoding import EncodedFact, encode_rows
from malmen.lm.language_model import LanguageModel
from malmen.lm.open_catalogue import completed
from malmen.recording.frozen import PrefixStore, replay
from malmen.support.errors import InputError

__all__ = ["encode", "load", "load_encoder", "prepare_libraries"]


def prepare_libraries(*, fast: bool = True) -> None:
    """Keep transformers' own bars and reports off the terminal; take the faster products."""
    if fast and onednn.is_faster():
        onednn.route_products()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load(
    lm: str,
    weights: Path,
    *,
    prefixes: Sequence[Path] = (),
    modules: Modules = "edited",
    precision: Literal["float32", "stored"] = "stored",
    fast: bool = True,
    device: str | None = None,
) -> LanguageModel:
    """Load a language model, starting from stored states if there are any.

    With stored states the frozen blocks never reach the device.

    Args:
        lm: Name in the catalogue.
        weights: Folder of the model.
        prefixes: Stored states of all rows that it will run on.
        modules: Which of the catalogue's choices of modules are edited.
        precision: Single, or that of the weights.
        fast: Whether to take faster products where there are any.
        device: Where to compute; a GPU unless there is none.

    Raises:
        InputError: It is not for editing, or has no such modules.
    """
    known = completed(lookup(lm), weights)
    if not known.edited:
        edited = ", ".join(name for name, other in catalogue().items() if other.edited)
        raise InputError(f"{lm} is not for editing; choose from {edited}")
    entry = known.editing(modules)
    prepare_libraries(fast=fast)
    place = choose_device(device)
    dtype = torch.float32 if precision == "float32" else None
    model = LanguageModel.load(weights, entry, dtype=dtype)
    if prefixes:
        replay(model, PrefixStore.merged([PrefixStore.load(p, model=lm) for p in prefixes]))
    return model.to(place)


def load_encoder(lm: str, weights: Path) -> Callable[[str, str], Example]:
    """Return how a language model tokenises a prompt and its answer, without reading its weights.

    Raises:
        InputError: The folder holds no model, or no tokenizer.
    """
    prepare_libraries(fast=False)
    return LanguageModel.shell(weights, completed(lookup(lm), weights)).encode


def encode(model: LanguageModel, rows: Path, *, seed: int) -> list[EncodedFact]:
    """Read rows, and tokenise them; the seed draws their paraphrases."""
    return encode_rows(model, read_rows(rows, model.entry.task), seed=seed)
