"""What meta-training and editing need by plan and by measurement, for models of a few features.

A module of its own, because a fresh process has to import it: a fork of a process that has trained
something uses again what that freed, and such memory does not count.
"""

import random
from dataclasses import replace
from functools import partial

from tiny_models import tiny_tokenizer
from transformers import AutoConfig

from malmen.experiment.memory import PROCEDURES, in_child
from malmen.lm.batches import Example
from malmen.lm.catalogue import Entry, lookup
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.lm.model_tree import auto_class
from malmen.planning.memory_plan import Planner
from malmen.planning.sizes import Lengths
from malmen.results.memory import EDITING, SPILLED, TRAINING
from malmen.settings import HyperSettings

SHAPES = {
    "gpt2_desk": {"vocab_size": 4000, "n_embd": 256, "n_inner": 1536},
    "t5_desk": {"vocab_size": 4000, "d_model": 256, "d_ff": 1024},
}
TOKENS, ANSWERS = 24, 3


def entry_of(name: str) -> Entry:
    entry = lookup(name)
    assert entry.built
    return Entry(**{**vars(entry), "built": {**entry.built, **SHAPES[name]}})


def language_model(entry: Entry) -> LanguageModel:
    assert entry.built
    tokens = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}
    config = AutoConfig.for_model(**{**entry.built, **tokens})
    model = auto_class(entry, config).from_config(config)
    return LanguageModel(model, tiny_tokenizer("gpt2"), entry)


def facts_for(entry: Entry, n: int) -> list[EncodedFact]:
    draw = random.Random(0)

    def example() -> Example:
        ids = tuple(draw.randrange(3, 4000) for _ in range(TOKENS))
        targets = tuple(draw.randrange(3, 4000) for _ in range(ANSWERS))
        if entry.name == "t5_desk":
            return Example(ids, tuple(range(ANSWERS)), targets, (0, *targets[:-1]))
        return Example(ids, tuple(range(TOKENS - ANSWERS, TOKENS)), targets)

    return [EncodedFact(example(), example(), example()) for _ in range(n)]


def planned_and_measured(name: str, edits: int, cached: str) -> dict[str, tuple[float, float]]:
    """Return what each procedure needs above the language model, in MB: planned and measured."""
    entry = entry_of(name)
    settings = HyperSettings(rank=512, cached=cached)
    lm, facts = language_model(entry), facts_for(entry, edits)
    planner = Planner(entry, lengths=Lengths.of(facts))
    plans = {
        TRAINING: planner.meta_training("malmen", settings, edits=edits),
        SPILLED: planner.meta_training("malmen", replace(settings, memory_mb=0), edits=edits),
        EDITING: planner.editing("malmen", settings, edits=edits),
    }
    needs = {}
    for procedure, plan in plans.items():
        measured, _ = in_child(partial(PROCEDURES[procedure], lm, facts, settings))
        planned = (plan.together - planner.upper_weights) / 2**20  # the model was there before
        needs[procedure] = (planned, measured)
    return needs
