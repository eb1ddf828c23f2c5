"""The editors by name, and the files that those with a hyper-network are kept in."""

from dataclasses import asdict
from pathlib import Path

from baselines.mend import MEND
from malmen.editor import HyperNetworkEditor
from malmen.errors import InputError
from malmen.files import read_safetensors, write_safetensors
from malmen.malmen import MALMEN
from malmen.models.language_model import LanguageModel
from malmen.settings import HyperSettings

__all__ = ["EDITORS", "load_editor", "save_editor"]

EDITORS: dict[str, type[HyperNetworkEditor]] = {"malmen": MALMEN, "mend": MEND}
"""The editors that are meta-trained."""

FORMAT = "malmen-editor-2"


def save_editor(path: Path, editor: HyperNetworkEditor, *, lm: str) -> None:
    """Write an editor; the file says which editor it is, and for which language model."""
    metadata = {
        "format": FORMAT,
        "editor": next(name for name, kind in EDITORS.items() if type(editor) is kind),
        "lm": lm,
        "layers": list(editor.layer_index),
        "settings": asdict(editor.settings),
    }
    write_safetensors(path, editor.state_dict(), metadata)


def load_editor(path: Path, lm: LanguageModel) -> HyperNetworkEditor:
    """Read an editor for ``lm``, in evaluation mode.

    Raises:
        InputError: the file is missing, is no editor, or belongs to another language model.
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
    settings = HyperSettings(**metadata["settings"])
    editor = EDITORS[metadata["editor"]](lm.shapes, settings)
    editor.load_state_dict(state)
    return editor.to(lm.device).requires_grad_(False)
