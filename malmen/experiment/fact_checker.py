"""A fact checker: which claims it is trained and tested on."""

from malmen.data.claims import checker_claims
from malmen.data.geonames.claims import training_claims
from malmen.data.geonames.facts import read_facts
from malmen.data.geonames.splits import checker_facts, split_subjects
from malmen.experiment.options import Checking
from malmen.lm.device import choose_device
from malmen.lm.weights.fact_checker import train_fact_checker
from malmen.lm.weights.settings import FactCheckerSettings
from malmen.support.errors import InputError

__all__ = ["fact_checker"]


def fact_checker(options: Checking, settings: FactCheckerSettings) -> dict[str, float]:
    """Fine-tune an encoder on claims about GeoNames facts or on FEVER's, and return its accuracy.

    Raises:
        InputError: Not exactly one source of claims is named, or a file cannot be used.
    """
    if bool(options.facts) == bool(options.fever) or (
        bool(options.fever) != bool(options.fever_held_out)
    ):
        raise InputError("name claims: either --facts, or --fever and --fever-held-out")
    n, held_out, seed = options.claims, options.held_out, options.seed
    if options.facts is not None:
        seen, unseen = checker_facts(split_subjects(read_facts(options.facts), seed=seed))
        training = training_claims(seen, n=n, seed=seed)
        test = training_claims(unseen, n=held_out, seed=seed)
    else:
        training, test = checker_claims(
            options.fever, options.fever_held_out, n=n, n_held_out=held_out, seed=seed
        )
    return train_fact_checker(
        options.base,
        training,
        test,
        out=options.out,
        settings=settings,
        seed=options.seed,
        device=choose_device(options.device),
    )
