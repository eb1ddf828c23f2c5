"""How data flows through one transformer block of each architecture.

A module tree says which modules a block has, not how they are connected. This is the rest; a test
compares the modules named here with the real tree.
"""

from dataclasses import dataclass

__all__ = ["WIRING", "Branch", "Operation", "Stage", "Step"]


@dataclass(frozen=True)
class Operation:
    """What happens between modules that hold parameters.

    Attributes:
        label: What is printed; "{heads}" stands for the number of attention heads, "{kind}" for
            the class of `module`.
        module: Name of the module that does it, if one does.
    """

    label: str
    module: str = ""


Step = tuple[str, ...] | Operation
"""Boxes side by side, or an operation on what they return. A box names one module, or several of
one shape with blanks between."""


@dataclass(frozen=True)
class Branch:
    """Steps from the residual stream back to it.

    Attributes:
        inside: The module that holds the steps' modules; empty for the block itself.
        steps: In the order of the forward pass; names are relative to `inside`.
        foreign: Boxes that read the encoder's output in place of the stream.
    """

    inside: str
    steps: tuple[Step, ...]
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """Branches that are added to the residual stream together.

    Attributes:
        branches: Side by side.
        before: Normalisation of what the branches read.
        after: Normalisation of the stream once they are added.
    """

    branches: tuple[Branch, ...]
    before: str = ""
    after: str = ""


_ATTENTION = Operation("softmax attention, {heads} heads")
_GPT_MLP = Operation("{kind}", "act")
_T5_SELF = Branch("layer.0.SelfAttention", (("q k v",), _ATTENTION, ("o",)))
_T5_CROSS = Branch("layer.1.EncDecAttention", (("q", "k v"), _ATTENTION, ("o",)), foreign=("k v",))
_T5_GATED = (("wi_0", "wi_1"), Operation("{kind}(wi_0) ⊙ wi_1", "act"), ("wo",))

WIRING: dict[tuple[str, str], tuple[Stage, ...]] = {
    ("gpt2", "transformer.h"): (
        Stage((Branch("attn", (("c_attn",), _ATTENTION, ("c_proj",))),), before="ln_1"),
        Stage((Branch("mlp", (("c_fc",), _GPT_MLP, ("c_proj",))),), before="ln_2"),
    ),
    ("gptj", "transformer.h"): (
        Stage(
            (
                Branch(
                    "attn",
                    (
                        ("q_proj k_proj v_proj",),
                        Operation("rotary attention, {heads} heads"),
                        ("out_proj",),
                    ),
                ),
                Branch("mlp", (("fc_in",), _GPT_MLP, ("fc_out",))),
            ),
            before="ln_1",
        ),
    ),
    ("bert", "bert.encoder.layer"): (
        Stage(
            (
                Branch(
                    "attention",
                    (("self.query self.key self.value",), _ATTENTION, ("output.dense",)),
                ),
            ),
            after="attention.output.LayerNorm",
        ),
        Stage(
            (
                Branch(
                    "",
                    (
                        ("intermediate.dense",),
                        Operation("{kind}", "intermediate.intermediate_act_fn"),
                        ("output.dense",),
                    ),
                ),
            ),
            after="output.LayerNorm",
        ),
    ),
    ("t5", "encoder.block"): (
        Stage((_T5_SELF,), before="layer.0.layer_norm"),
        Stage((Branch("layer.1.DenseReluDense", _T5_GATED),), before="layer.1.layer_norm"),
    ),
    ("t5", "decoder.block"): (
        Stage((_T5_SELF,), before="layer.0.layer_norm"),
        Stage((_T5_CROSS,), before="layer.1.layer_norm"),
        Stage((Branch("layer.2.DenseReluDense", _T5_GATED),), before="layer.2.layer_norm"),
    ),
}
"""The stages of a block from input to output, by model type and list of blocks."""
