"""Editors: meta-training up the grid of counts, then evaluation on disjoint edit sets."""

import logging
from typing import Any

from tyro.conf import OmitArgPrefixes

from malmen.commands.editor_options import (
    AnyEditor,
    TrainedEditor,
    TrainedSettings,
    TrainingOptions,
    UntrainedSettings,
)
from malmen.experiment.cards import MALMEN, find
from malmen.experiment.options import EditedModel, Evaluating, OptionalPath, Training
from malmen.lm.catalogue import Modules, lookup
from malmen.settings import HyperSettings

__all__ = ["evaluate", "plan", "train"]

logger = logging.getLogger(__name__)


def train(
    *,
    editor: TrainedEditor,
    options: OmitArgPrefixes[Training],
    settings: TrainedSettings,
    training: TrainingOptions,
) -> None:
    """Meta-train an editor; a killed run continues where it was.

    Args:
        editor: Which editor, by name or as package.module:CARD.
        settings: Hyper-parameters of the editor.
        training: Hyper-parameters of the training.
    """
    card = find(editor)
    from malmen.experiment.train import train as run

    def announce(model: Any, facts: Any) -> None:
        if model.entry.published:
            from malmen.planning.memory_plan import Planner

            planner = Planner.of(model, facts)
            plan = planner.meta_training(card.name, settings, edits=options.edits)
            logger.info("memory plan: %s (`malmen plan` shows every stage)", plan)

    run(options, card, settings, training, announce=announce)


def evaluate(
    *,
    editor: AnyEditor,
    options: OmitArgPrefixes[Evaluating],
    so_far: OptionalPath = None,
    settings: UntrainedSettings,
) -> None:
    """Edit disjoint sets of facts at every count and score every fact.

    Args:
        editor: Which editor, by name or as package.module:CARD.
        so_far: Folder of a run's evaluations, LM/EDITOR.parquet; their scores are shown at the end.
        settings: Hyper-parameters of the editors that need no training.
    """
    card = find(editor)
    from baselines.key_statistics import KeyStatistics
    from malmen.experiment.evaluate import evaluate as run
    from malmen.reporting.so_far import print_so_far

    own = None if card.training is not None else getattr(settings, card.name)
    run(options, card, own, statistics=KeyStatistics.load)
    if so_far is not None:
        print_so_far(so_far)


def plan(
    *,
    lm: EditedModel,
    edits: list[int],
    editor: TrainedEditor = MALMEN.name,
    modules: Modules = "edited",
    settings: OmitArgPrefixes[HyperSettings] = HyperSettings(),
) -> None:
    """Print what meta-training and editing will need, stage by stage, before anything runs.

    Args:
        lm: Name in the catalogue.
        edits: Numbers of facts edited at once.
        editor: Which editor.
        modules: Which of the catalogue's choices of modules are edited.
        settings: Hyper-parameters of the editor.
    """
    from malmen.experiment.loading import prepare_libraries
    from malmen.planning.memory_plan import Planner

    prepare_libraries()
    planner = Planner(lookup(lm).editing(modules))
    for count in edits:
        for stage in (planner.meta_training, planner.editing):
            made = stage(editor, settings, edits=count)
            print(f"{made}\n\n{made.table()}\n")
