"""Statistics of keys: which texts of which language model they are of."""

from collections.abc import Iterable

from baselines.key_statistics import key_statistics
from malmen.data.geonames.facts import read_facts
from malmen.data.texts import read_texts, stream_dataset
from malmen.experiment.desk import desk_texts
from malmen.experiment.loading import load
from malmen.experiment.options import Weighing
from malmen.experiment.provenance import ATTRIBUTIONS, run_metadata
from malmen.lm.catalogue import Modules, lookup
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError
from malmen.support.files import write_json

__all__ = ["average_keys"]


def average_keys(options: Weighing, modules: Modules) -> None:
    """Average the outer products of the keys of some modules over texts.

    Raises:
        InputError: Not exactly one source of texts is named, or a file cannot be used.
    """
    sources = (options.facts, options.texts, options.dataset)
    if sum(source is not None for source in sources) != 1:
        raise InputError("name one source of texts: --facts, --texts or --dataset")
    model = load(
        options.lm,
        options.weights,
        modules=modules,
        precision=options.precision,
        device=options.device,
    )
    statistics = key_statistics(
        model, _texts(options, model), total=options.samples, length=options.length
    )
    choices = {
        **{key: getattr(options, key) for key in ("lm", "samples", "length")},
        **statistics.source,
    }
    used = [
        *lookup(options.lm).attributions,
        *([ATTRIBUTIONS["geonames"]] if options.facts else []),
    ]
    metadata = run_metadata(
        seed=options.seed,
        settings=choices,
        started=options.started,
        data=used,
    )
    write_json(options.out.with_suffix(".json"), metadata)
    statistics.save(options.out)


def _texts(options: Weighing, model: LanguageModel) -> Iterable[str]:
    if options.facts is not None:
        facts = read_facts(options.facts)
        return desk_texts(model, facts, n=options.samples, length=options.length, seed=options.seed)
    if options.texts is not None:
        return read_texts(options.texts)
    return stream_dataset(str(options.dataset), seed=options.seed)
