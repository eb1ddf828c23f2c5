"""A pre-training: which facts a language model learns, and which stay unseen."""

from malmen.data.geonames.facts import read_facts
from malmen.data.geonames.rows import all_prompts
from malmen.data.geonames.splits import pretraining_facts, split_subjects
from malmen.experiment.options import Pretraining
from malmen.lm.catalogue import lookup
from malmen.lm.weights import pretraining
from malmen.lm.weights.settings import PretrainingSettings

__all__ = ["pretrain"]


def pretrain(options: Pretraining, settings: PretrainingSettings) -> dict[str, float]:
    """Pre-train a small language model on facts, from random weights, and return its accuracy.

    Raises:
        InputError: There are fewer prominent subjects, or a file cannot be used.
    """
    facts = read_facts(options.facts)
    splits = split_subjects(facts, seed=options.seed)
    known, held_out = pretraining_facts(splits, subjects=options.subjects)
    return pretraining.pretrain(
        lookup(options.lm),
        all_prompts(known),
        all_prompts(held_out),
        names=dict.fromkeys(fact.subject for fact in facts),
        out=options.out,
        settings=settings,
        seed=options.seed,
    )
