# What the rules share: checked configuration, code digests, options, paths, input functions.
import sys
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path
from shlex import quote

from malmen.catalogue import lookup
from malmen.config import check
from malmen.errors import InputError
from malmen.provenance import code_digest

try:
    check(config)
except InputError as error:
    for line in str(error).splitlines():
        print(f"malmen: error: {line}", file=sys.stderr)
    sys.exit(2)

LMS = config["run"]["language_models"]
EDITORS = config["run"]["editors"]
ANSWERING = [lm for lm in LMS if lookup(lm).rows == "zsre" and "malmen" in EDITORS]
IMPORTED = [lm for lm in LMS if "sources" in config["language_models"][lm]]

# Tables, and the figures with the language model that each is about.
TABLES = ["1"]
FIGURES = {name: lm for name, lm in {"04": "fact_checker", "S1": "smollm2"}.items() if lm in LMS}
TABLE_FORMATS = ["md", "tex", "csv"]
FIGURE_FORMATS = ["pdf", "png", "csv"]

# The modules behind each subcommand of `malmen`, and behind each editor. A digest covers everything
# that a module imports from this repository.
MODULES = {
    "fetch": ["malmen.packages"],
    "facts": ["malmen.geonames"],
    "fact-checker": ["malmen.fact_checker", "malmen.geonames"],
    "rows": ["malmen.rows"],
    "import-rows": ["malmen.importing"],
    "prefix": ["malmen.prefix", "malmen.encoding"],
    "train": ["malmen.training", "malmen.prefix"],
    "evaluate": ["malmen.evaluation", "malmen.prefix", "malmen.results"],
    "answers": ["malmen.answers"],
    "table": ["malmen.tables"],
    "figure": ["malmen.figures"],
    "summary": ["malmen.summary"],
    "search-table": ["malmen.search"],
    "malmen": ["malmen.malmen"],
    "mend": ["baselines.mend"],
    "ft": ["baselines.fine_tuning"],
}


def one_of(names):
    """Pattern that matches these names and nothing else."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    lm=one_of(LMS),
    editor=one_of(EDITORS),
    split="train|validation|evaluation",
    edits=r"\d+",
    trial=r"\d+",


@cache
def code(*names, lm=None):
    """Digest of the modules, and of the catalogue's entry, that a job depends on.

    Snakemake does not look into the library. As a parameter, the digest makes exactly those jobs
    run again that use an edited module.
    """
    digests = [code_digest(module) for name in names for module in MODULES[name]]
    return sha256(repr((digests, lm and lookup(lm))).encode()).hexdigest()


def options(settings):
    """Options of the command line: {"n_blocks": 2, "edits": [8, 9]} is --n-blocks 2 --edits 8 9."""
    words = []
    for key, value in settings.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{key.replace('_', '-')}", *(quote(str(one)) for one in values)]
    return " ".join(words)


def settings(lm):
    """The section of one language model."""
    return config["language_models"][lm]


def hyper_parameters(lm, editor):
    """Hyper-parameters of an editor: the common ones, then what the language model changes."""
    return {**config["editors"][editor], **settings(lm)["editors"].get(editor, {})}


def weights(wildcards):
    """Folder of a language model: unpacked from a package, or fine-tuned here."""
    is_fetched = lookup(wildcards.lm).package is not None
    return "<resources>/lm/{lm}" if is_fetched else "<results>/lm/{lm}"


def first_figure_first(wildcards):
    """Priority of a job: what Figure 4 needs comes before the rest."""
    name = wildcards.get("lm") or wildcards.get("base") or FIGURES.get(wildcards.get("name"))
    return int(name in ("fact_checker", lookup("fact_checker").base))


# --- real files instead of GeoNames ---------------------------------------------------------------


def source_files(wildcards):
    """The user's files that the rows of a split come from."""
    source = settings(wildcards.lm)["sources"][wildcards.split]
    return {key: source[key] for key in ("files", "unrelated") if key in source}


def earlier_splits(wildcards):
    """Rows that a split must not repeat: evaluation is drawn first, then train, then validation."""
    order = ["evaluation", "train", "validation"]
    earlier = order[: order.index(wildcards.split)]
    return expand("<results>/rows/{lm}/{split}.jsonl", lm=wildcards.lm, split=earlier)


# --- meta-training and evaluation ----------------------------------------------------------------


def schedule(lm):
    """Steps of meta-training by number of edits, in the order of training."""
    return {stage["edits"]: stage["steps"] for stage in settings(lm)["training"]}


def editor_files(lm, editor):
    """Trained editors by number of edits; none for fine-tuning, which needs no training."""
    if editor == "ft":
        return {}
    pattern = f"<results>/editors/{lm}/{editor}_{{}}.safetensors"
    return {edits: pattern.format(edits) for edits in schedule(lm)}


def warm_start(wildcards):
    """The editor trained at the next smaller count, which training starts from."""
    files = editor_files(wildcards.lm, wildcards.editor)
    smaller = [edits for edits in files if edits < int(wildcards.edits)]
    return files[max(smaller)] if smaller else []


def training_options(lm, editor, edits, steps, **trial):
    """Options of `malmen train`."""
    hyper = {**hyper_parameters(lm, editor), **trial}
    return options({"edits": edits, "steps": steps, "seed": config["seed"], **hyper})


def evaluation_options(lm, editor, edits, sets, **trial):
    """Options of `malmen evaluate`; a trained editor brings its own hyper-parameters."""
    hyper = {**hyper_parameters(lm, editor), **trial}
    if editor != "ft":
        hyper = {"fact_batch": hyper["fact_batch"]}
    if lm not in IMPORTED:
        hyper["data"] = ["geonames"]
    return options({"edits": edits, "sets": sets, "seed": config["seed"], **hyper})


def trained_option(counts, files):
    """--trained FILE@COUNT ..., or nothing for an editor without training."""
    pairs = [f"{file}@{count}" for count, file in zip(counts, files, strict=True)]
    return options({"trained": pairs}) if pairs else ""


def evaluations(*lms):
    """Per-fact results of every editor on the given language models."""
    return expand("<results>/evaluations/{lm}/{editor}.parquet", lm=lms, editor=EDITORS)


def table_files():
    """Every table, in every format."""
    return expand("<results>/tables/table_{number}.{format}", number=TABLES, format=TABLE_FORMATS)


def figure_files():
    """Every figure, in every format."""
    return expand("<results>/figures/figure_{name}.{format}", name=FIGURES, format=FIGURE_FORMATS)


# --- the search for hyper-parameters -------------------------------------------------------------


def trials(lm, editor):
    """Every combination of an editor's grid, as changes to its hyper-parameters."""
    grid = config["search"][lm]["grid"][editor]
    return [dict(zip(grid, values)) for values in product(*grid.values())]


def trial(wildcards):
    """One combination."""
    return trials(wildcards.lm, wildcards.editor)[int(wildcards.trial)]
