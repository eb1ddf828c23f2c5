# What the rules share: checked configuration, patterns of wildcards, input functions.
import json
import re
import sys
from functools import partial
from pathlib import Path

from malmen.data.downloads.table import sources
from malmen.experiment.cards import MALMEN
from malmen.experiment.consistency import check
from malmen.experiment.jobs import (
    DIAGRAMS,
    FIGURE_FORMATS,
    SPLITS,
    TABLE_FORMATS,
    Jobs,
    code,
    fetch_code,
    moments_of,
    optional,
    options,
    trained_option,
)
from malmen.lm.catalogue import lookup as entry_of
from malmen.support.errors import InputError

try:
    check(config)
except InputError as error:
    for line in str(error).splitlines():
        print(f"malmen: error: {line}", file=sys.stderr)
    sys.exit(2)

RUN = Jobs(config)


def one_of(names):
    """Pattern that matches these names and nothing else."""
    return "|".join(names) or "(?!)"


def shown(stem, formats, kind, **labels):
    """Outputs of several formats that `snakemake --report` shows, under what says their kind."""
    mark = partial(report, caption=f"../report/{kind}.rst", category=kind.title())
    return [mark(f"{stem}.{name}", labels={**labels, "format": name}) for name in formats]


wildcard_constraints:
    lm=one_of(RUN.lms),
    editor=one_of(RUN.references),
    variant=one_of(RUN.variants),
    split=one_of(SPLITS),
    edits=r"\d+",
    trial=r"\d+",


def gpu(wildcards):
    """GPUs that a job takes: one for each of the paper's language models."""
    return int(bool(entry_of(wildcards.lm).published))


def first_figure_first(wildcards):
    """Priority of a job: what Figure 5 needs comes before the rest; it is the soonest to be had."""
    name = wildcards.get("lm") or RUN.curves.get(wildcards.get("name"))
    return int(name == "gpt2_desk")


def weights(wildcards):
    """Folder of the language model that a job is about."""
    return RUN.weights(wildcards.lm)


def downloads_of(wildcards):
    """Folder for what a language model arrives in; packages have one of their own."""
    return "resources/packages" if entry_of(wildcards.base).package else "resources/downloads"


def checker_files(wildcards):
    """Claims that a fact checker is trained and tested on."""
    return RUN.checker_files(wildcards.lm)


def source_files(wildcards):
    """Files that the rows of a split come from."""
    return RUN.source_files(wildcards.lm, wildcards.split)


def statistics_texts(wildcards):
    """Files of texts that statistics of keys are computed over."""
    return RUN.statistics_texts()


def warm_start(wildcards):
    """The editor that meta-training starts from."""
    return RUN.warm_start(wildcards.lm, wildcards.editor, int(wildcards.edits))


def variant_warm_start(wildcards):
    """The variant that meta-training starts from."""
    return RUN.variant_warm_start(wildcards.variant, int(wildcards.edits))


def prefix_file(split):
    """Stored states of the rows of a split, for an editor that starts from them."""
    return lambda wildcards: RUN.prefix(wildcards.lm, split, wildcards.editor)


def statistics_file(wildcards):
    """Statistics of keys, for an editor that needs them."""
    return RUN.statistics(wildcards.lm, wildcards.editor)


def trial(wildcards):
    """One combination of a search, as changes to hyper-parameters."""
    return RUN.trials(wildcards.editor)[int(wildcards.trial)]


def table_inputs(wildcards):
    """Files that a table is made from, by option of `malmen table`."""
    return RUN.table_inputs(wildcards.number)


def figure_inputs(wildcards):
    """Files that a figure is drawn from, by option of `malmen figure`."""
    return RUN.figures[wildcards.name]
