import pytest
from torch import nn

from malmen.figures.diagrams.block_wiring import WIRING, Operation, Stage
from malmen.lm.catalogue import paper_models
from malmen.lm.model_tree import build, stacks


def drawn(stages: tuple[Stage, ...]) -> list[str]:
    """Return the modules that a block's wiring names."""
    names = []
    for stage in stages:
        names += [stage.before, stage.after]
        for branch in stage.branches:
            for step in branch.steps:
                of_step = [step.module] if isinstance(step, Operation) else " ".join(step).split()
                names += [branch.path(name) for name in of_step if name]
    return [name for name in names if name]


@pytest.mark.parametrize("name", paper_models())
def test_the_wiring_names_every_module_of_the_block_once(name: str) -> None:
    model = build(paper_models()[name])
    for stack, blocks in stacks(model).items():
        named = drawn(WIRING[model.config.model_type, stack])
        assert len(set(named)) == len(named)
        tree = {
            path
            for path, module in blocks[-1].named_modules()
            if not list(module.children()) and not isinstance(module, nn.Dropout)
        }
        assert set(named) == tree


@pytest.mark.parametrize("name", paper_models())
def test_foreign_boxes_belong_to_the_branch(name: str) -> None:
    model = build(paper_models()[name])
    for stack in stacks(model):
        for stage in WIRING[model.config.model_type, stack]:
            for branch in stage.branches:
                first = branch.steps[0]
                assert not branch.foreign or branch.foreign in first
