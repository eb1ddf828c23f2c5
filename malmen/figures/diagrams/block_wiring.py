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


class Branch:
    """Steps from the residual stream back to it.

    Args:
        inside: The module that holds the steps' modules; empty for the block itself.
        steps: In the order of the forward pass; names are relative to `inside`. A box that stands
            alone needs no tuple.
        foreign: A box that reads the encoder's output in place of the stream.
    """

    def __init__(self, inside: str, *steps: str | Step, foreign: str = "") -> None:
        self.inside, self.foreign = inside, foreign
        self.steps: list[Step] = [(one,) if isinstance(one, str) else one for one in steps]

    def path(self, name: str) -> str:
        """Return a module's name within the block."""
        return f"{self.inside}.{name}".lstrip(".")


class Stage:
    """Branches that are added to the residual stream together.

    Args:
        branches: Side by side.
        before: Normalisation of what the branches read.
        after: Normalisation of the stream once they are added.
    """

    def __init__(self, *branches: Branch, before: str = "", after: str = "") -> None:
        self.branches, self.before, self.after = branches, before, after


_ATTENTION = Operation("softmax attention, {heads} heads")
_ROTARY = Operation("rotary attention, {heads} heads")
_ACT = Operation("{kind}", "act")
_BERT_ACT = Operation("{kind}", "intermediate.intermediate_act_fn")
_T5_SELF = Stage(
    Branch("layer.0.SelfAttention", "q k v", _ATTENTION, "o"), before="layer.0.layer_norm"
)
_T5_CROSS = Stage(
    Branch("layer.1.EncDecAttention", ("q", "k v"), _ATTENTION, "o", foreign="k v"),
    before="layer.1.layer_norm",
)


def _t5_feed_forward(index: int) -> Stage:
    gate = Operation("{kind}(wi_0) ⊙ wi_1", "act")
    branch = Branch(f"layer.{index}.DenseReluDense", ("wi_0", "wi_1"), gate, "wo")
    return Stage(branch, before=f"layer.{index}.layer_norm")


WIRING: dict[tuple[str, str], tuple[Stage, ...]] = {
    ("gpt2", "transformer.h"): (
        Stage(Branch("attn", "c_attn", _ATTENTION, "c_proj"), before="ln_1"),
        Stage(Branch("mlp", "c_fc", _ACT, "c_proj"), before="ln_2"),
    ),
    ("gptj", "transformer.h"): (
        Stage(
            Branch("attn", "q_proj k_proj v_proj", _ROTARY, "out_proj"),
            Branch("mlp", "fc_in", _ACT, "fc_out"),
            before="ln_1",
        ),
    ),
    ("bert", "bert.encoder.layer"): (
        Stage(
            Branch("attention", "self.query self.key self.value", _ATTENTION, "output.dense"),
            after="attention.output.LayerNorm",
        ),
        Stage(
            Branch("", "intermediate.dense", _BERT_ACT, "output.dense"), after="output.LayerNorm"
        ),
    ),
    ("t5", "encoder.block"): (_T5_SELF, _t5_feed_forward(1)),
    ("t5", "decoder.block"): (_T5_SELF, _T5_CROSS, _t5_feed_forward(2)),
}
"""The stages of a block from input to output, by model type and list of blocks."""
