"""Stored states: which sequences of a file of rows they are of."""

from malmen.experiment.loading import encode, load
from malmen.experiment.options import Storing
from malmen.recording.frozen import record_prefix

__all__ = ["store_prefixes"]


def store_prefixes(options: Storing) -> None:
    """Run the frozen blocks once over every prompt of files of rows, and store what comes out.

    Raises:
        InputError: A file cannot be used.
    """
    model = load(options.lm, options.weights, device=options.device)
    for path in options.rows:
        facts = encode(model, path, seed=options.seed)
        examples = [example for fact in facts for example in fact.tuples]
        out = options.out_dir / f"{path.name.partition('.')[0]}.safetensors"
        edits = [fact.edit for fact in facts]
        record_prefix(model, examples, answered=examples, edits=edits, path=out)
