from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model
from transformers.pytorch_utils import Conv1D

from malmen.lm.catalogue import paper_models
from malmen.lm.model_tree import (
    Leaf,
    build,
    leaf,
    leaves,
    module_table,
    ranges,
    split_name,
    stacks,
)

PARAMETERS = {"bert": 110e6, "gpt2": 124e6, "t5_xl": 2.8e9, "gptj": 6e9}  # as the titles have them

each = pytest.mark.parametrize("name", paper_models())


@each
def test_models_hold_no_weights_and_have_the_published_size(name: str) -> None:
    model = build(paper_models()[name])
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    number = sum(parameter.numel() for parameter in model.parameters())
    assert number == pytest.approx(PARAMETERS[name], rel=0.02)


@each
def test_the_table_accounts_for_every_parameter(name: str) -> None:
    entry = paper_models()[name]
    model = build(entry)
    table = module_table(entry, model)
    own = table[~table["tied"]]
    total = int((own["parameters"] * own["repeats"]).sum())
    assert total == sum(parameter.numel() for parameter in model.parameters())
    blocks = {len(stack) for stack in stacks(model).values()}
    in_blocks = table[table["blocks"] != ""]
    assert in_blocks.groupby("module")["repeats"].sum().isin([*blocks, 1]).all()


@each
def test_every_edited_module_is_in_the_table(name: str) -> None:
    entry = paper_models()[name]
    table = module_table(entry, build(entry))
    for choice in ("edited", "alternative", "memit"):
        assert table.loc[table[choice], "repeats"].sum() == len(getattr(entry, choice))


@pytest.mark.parametrize("kind", ["gpt2", "bert", "t5", "gptj"])
def test_sizes_are_those_of_the_function(kind: str) -> None:
    model = tiny_model(kind, dtype=torch.float32)
    for one in leaves(model):
        module = model.get_submodule(one.name)
        if isinstance(module, torch.nn.Embedding):
            assert module(torch.tensor([one.inputs - 1])).shape == (1, one.outputs)
        else:
            assert module(torch.zeros(1, one.inputs)).shape == (1, one.outputs)


def test_a_conv1d_is_turned_round() -> None:
    assert leaf("x", Conv1D(3, 5)) == Leaf("x", "Conv1D", 5, 3, 18)


@given(st.sets(st.integers(0, 40), min_size=1).map(sorted))
def test_ranges_say_the_numbers(numbers: list[int]) -> None:
    said = []
    for part in ranges(numbers).split(", "):
        first, _, last = part.partition("-")
        said += range(int(first), int(last or first) + 1)
    assert said == numbers
    assert ranges(numbers).count(",") == sum(b - a > 1 for a, b in pairwise(numbers))


def test_names_are_split_at_the_block() -> None:
    assert split_name("encoder.block.22.layer.1.wo") == ("encoder.block", 22, "layer.1.wo")
