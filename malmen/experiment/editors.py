"""The files that editors with a hyper-network are kept in."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from malmen.editor import HyperNetworkEditor
from malmen.experiment.cards import Card, find, trained
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError
from malmen.support.files import read_safetensors, write_safetensors

__all__ = ["load_editor", "save_editor", "training_of"]

FORMAT = "malmen-editor-2"


def save_editor(
    path: Path, editor: HyperNetworkEditor, *, lm: str, training: Mapping[str, Any] = {}
) -> None:
    """Write an editor; the file says which editor it is, for which language model, how trained."""
    kind = f"{type(editor).__module__}:{type(editor).__qualname__}"
    metadata = {
        "format": FORMAT,
        "editor": next(name for name, card in trained().items() if card.editor == kind),
        "lm": lm,
        "layers": list(editor.layer_index),
        "settings": asdict(editor.settings),
        "training": dict(training),
    }
    write_safetensors(path, editor.state_dict(), metadata)


def training_of(path: Path) -> dict[str, Any]:
    """Return at how many edits the editor of a file was trained, and how that ended (`Ending`)."""
    training: dict[str, Any] = read_safetensors(path)[1].get("training", {})
    return training


def load_editor(path: Path, lm: LanguageModel, kind: Card | None = None) -> HyperNetworkEditor:
    """Read an editor for ``lm``, of a certain kind if one is given, in evaluation mode.

    Raises:
        InputError: the file is missing, is no editor, is one of another kind, or belongs to
            another language model.
    """
    state, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT or metadata.get("lm") != lm.entry.name:
        raise InputError(
            f"{path}: not an editor for {lm.entry.name} (it says {metadata}); "
            "make one with `malmen train`"
        )
    if metadata["layers"] != list(lm.layers):
        raise InputError(
            f"{path}: an editor of {', '.join(metadata['layers'])}, and the language model is "
            f"loaded to edit {', '.join(lm.layers)}: use the same --modules as in training"
        )
    card = find(metadata["editor"])
    settings = card.settings(**metadata["settings"])
    editor: HyperNetworkEditor = card.build(layers=lm.shapes, settings=settings)
    editor.load_state_dict(state)
    editor.to(lm.device).requires_grad_(False)
    if kind is not None and type(editor) is not kind.load():
        raise InputError(f"{path}: a {type(editor).__name__} editor, not one of {kind.name}")
    return editor
