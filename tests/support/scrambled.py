"""Editors whose every parameter has left its start, so that nothing is zero by chance."""

from typing import Any

import torch
from tiny_models import EDITORS
from torch import nn

from malmen.editor import HyperNetworkEditor
from malmen.lm.language_model import LanguageModel
from malmen.settings import HyperSettings


def scrambled_editor(
    name: str, lm: LanguageModel, *, seed: int = 0, **changes: Any
) -> HyperNetworkEditor:
    """Return an editor all of whose parameters, λ and η included, have left their start.

    A is divided by the root of its height first: with the blocks' full effect, shifts would be so
    large that the language model saturates and gradients drown in rounding.
    """
    settings = HyperSettings(rank=6, learning_rate=3e-2, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        editor = EDITORS[name](lm.shapes, settings).double()
        with torch.no_grad():
            for parameter_name, parameter in learned(editor):
                noise = 0.2 * torch.randn_like(parameter)
                is_rate = parameter is editor.learning_rates
                if parameter_name.endswith(".A"):
                    parameter.div_(len(parameter) ** 0.5)
                parameter.copy_(parameter * (1 + noise) if is_rate else parameter + noise)
    return editor


def learned(editor: HyperNetworkEditor) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in editor.named_parameters() if p.requires_grad]
