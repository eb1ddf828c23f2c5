"""The memory plan against peaks that were measured, each in a process of its own."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from memory_needs import planned_and_measured

from malmen.lm.catalogue import lookup
from malmen.planning.memory_plan import Planner
from malmen.settings import HyperSettings
from malmen.support.errors import InputError

BYTES_OF_A_GPU = 24e9

FACTOR = 1.5
"""A plan is right if it is neither above nor below what is measured by more."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "edits", "cached"),
    [("gpt2_desk", 128, "ans"), ("gpt2_desk", 256, "all"), ("t5_desk", 96, "ans")],
)
def test_a_plan_is_near_what_is_measured(name: str, edits: int, cached: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        needs = fresh.submit(planned_and_measured, name, edits, cached).result()
    assert len(needs) == 3
    for procedure, (planned, measured) in needs.items():
        assert measured / FACTOR < planned < measured * FACTOR, (procedure, planned, measured)


def test_gptj_is_meta_trained_on_one_gpu_at_any_number_of_edits() -> None:
    planner = Planner(lookup("gptj"))
    plans = {
        edits: planner.meta_training("malmen", HyperSettings(), edits=edits)
        for edits in (1024, 16_384, 65_536)
    }
    assert max(plan.device for plan in plans.values()) < BYTES_OF_A_GPU
    assert plans[16_384].device == plans[65_536].device
    assert plans[16_384].host == plans[65_536].host
    assert plans[16_384].files < plans[65_536].files


def test_an_editor_without_a_hyper_network_has_no_plan() -> None:
    planner = Planner(lookup("gpt2_desk"))
    with pytest.raises(InputError, match="no plan for 'ft'; choose from mend, malmen"):
        planner.editing("ft", HyperSettings(), edits=4)
