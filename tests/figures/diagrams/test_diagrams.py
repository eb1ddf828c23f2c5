"""Figures 1-3 and 9-11."""

from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from figure_checks import assert_legible, texts

from malmen.experiment import jobs
from malmen.figures.diagrams import DIAGRAMS
from malmen.figures.diagrams.block_diagram import GRADIENT, KEY
from malmen.figures.diagrams.module_diagrams import MODULE_DIAGRAMS, module_diagram
from malmen.figures.diagrams.procedure_diagrams import PROCEDURE_DIAGRAMS
from malmen.figures.drawing import INFERRED, Drawing
from malmen.lm.catalogue import paper_models
from malmen.lm.model_tree import build, stacks

modules = pytest.mark.parametrize("name", MODULE_DIAGRAMS)


@cache
def drawing(name: str) -> Drawing:
    return PROCEDURE_DIAGRAMS[name]() if name in PROCEDURE_DIAGRAMS else module_diagram(name)


@pytest.mark.parametrize("name", DIAGRAMS)
def test_diagrams_are_legible(name: str) -> None:
    assert_legible(lambda: drawing(name).figure)


@pytest.mark.parametrize("name", PROCEDURE_DIAGRAMS)
def test_every_step_is_drawn_once_and_explained(name: str) -> None:
    made = drawing(name)
    steps = list(made.data["step"])
    shown = [text.get_text() for text in texts(made.figure)]
    assert [step for step in steps if shown.count(step) == 1] == steps
    assert made.data["what"].str.len().min() > 20


@modules
def test_hooks_stand_at_the_edited_modules_of_the_blocks_drawn(name: str) -> None:
    entry = paper_models()[MODULE_DIAGRAMS[name]]
    model = build(entry)
    last = [f"{stack}.{len(blocks) - 1}." for stack, blocks in stacks(model).items()]
    edited = [module for module in entry.edited if module.startswith(tuple(last))]
    marks = [text for text in texts(drawing(name).figure) if text.get_text() in ("u", "∇v")]
    assert len(edited) > 0
    for label, color in (("u", KEY), ("∇v", GRADIENT)):
        found = [text for text in marks if text.get_text() == label]
        assert len(found) == len(edited)
        assert {text.get_color() for text in found} == {color}


@modules
def test_names_and_sizes_are_those_of_the_tree(name: str) -> None:
    made = drawing(name)
    shown = "\n".join(text.get_text() for text in texts(made.figure))
    for _, row in made.data.iterrows():
        last = row["module"].split(".")[-1]
        assert last in shown or last == "relative_attention_bias"  # of the first block alone
        if row["edited"]:
            assert f"{row['inputs']} → {row['outputs']}" in shown


@modules
def test_captions_name_what_is_edited(name: str) -> None:
    entry = paper_models()[MODULE_DIAGRAMS[name]]
    caption = drawing(name).caption
    assert entry.title in caption.headline
    assert (INFERRED in caption.text) == (name != "03")
    assert ("MEMIT" in caption.text) == bool(entry.memit)
    for module in (*entry.edited, *entry.alternative):
        assert module.split(".")[-1] in caption.text


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("02", "10"):
        once, again = (DIAGRAMS[name](tmp_path / folder) for folder in ("once", "again"))
        for first, second in zip(once, again, strict=True):
            assert first.read_bytes() == second.read_bytes()
        pd.testing.assert_frame_equal(
            pd.read_csv(once[2], keep_default_na=False), drawing(name).data, check_dtype=False
        )


def test_the_workflow_draws_all_of_them() -> None:
    assert list(jobs.DIAGRAMS) == list(DIAGRAMS)
