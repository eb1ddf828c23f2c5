"""The jobs of a run: who is edited by whom, with which settings, from which files into which.

All of it follows from the configuration. The rules of the workflow bring Snakemake's wildcards and
ask here; whatever is heavy (torch, pandas) stays out, since Snakemake reads this in every job.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path
from shlex import quote
from typing import Any

from malmen.data.downloads.table import PREFIX
from malmen.experiment import published_settings
from malmen.experiment.cards import MALMEN, find
from malmen.experiment.provenance import code_digest
from malmen.lm.catalogue import lookup
from malmen.settings import HyperSettings

__all__ = [
    "DIAGRAMS",
    "FIGURE_FORMATS",
    "MODULES",
    "SPLITS",
    "TABLE_FORMATS",
    "Jobs",
    "code",
    "fetch_code",
    "moments_of",
    "optional",
    "options",
    "trained_option",
]

SPLITS = ("train", "validation", "evaluation")
TABLE_FORMATS = ("md", "tex", "csv")
FIGURE_FORMATS = ("pdf", "png", "csv")

DIAGRAMS = ("01", "02", "03", "09", "10", "11")
"""Figures that need no results."""

MEMORY_FIGURE = "08"
LEARNING_FIGURE = "LC"

MODULES: Mapping[str, Sequence[str]] = {
    "fetch": ["malmen.lm.weights.packages"],
    # What mirrors send is verified; only this makes anything.
    "download": ["malmen.data.downloads.kilt"],
    "facts": ["malmen.data.geonames.facts"],
    "fact-checker": ["malmen.experiment.fact_checker"],
    "pretrain": ["malmen.experiment.pretrain"],
    "rows": ["malmen.experiment.desk"],
    "import-rows": ["malmen.data.importing"],
    "prefix": ["malmen.experiment.prefix"],
    "key-statistics": ["malmen.experiment.key_statistics"],
    "train": ["malmen.experiment.train"],
    "evaluate": ["malmen.experiment.evaluate"],
    "answers": ["malmen.experiment.answers"],
    "table": ["malmen.tables"],
    "claims": ["malmen.reporting.claims"],
    "memory": ["malmen.experiment.memory"],
    "figure": ["malmen.figures"],
    "diagram": ["malmen.figures.diagrams"],
    "report": ["malmen.reporting.report"],
    "summary": ["malmen.reporting.summary"],
    "search-table": ["malmen.results.search"],
}
"""The modules behind each subcommand of `malmen`. A digest covers whatever a module imports from
this repository."""


@cache
def code(command: str, editor: str | None = None, lm: str | None = None) -> str:
    """Return the digest of the modules, and of the catalogue's entry, that a job depends on.

    Snakemake does not look into the library. As a parameter, the digest makes exactly those jobs
    run again that use an edited module. Cards do not count for what one editor does: the options
    say what a job is told of them, and another colour trains nothing again. Checks of values count
    for nothing: they change none.
    """
    without = ["malmen.support.checked", *(["malmen.experiment.cards"] if editor else [])]
    digests = [code_digest(module, without=without) for module in MODULES[command]]
    if editor:
        digests.append(code_digest(find(editor).module, elsewhere=True))
    return sha256(repr((digests, lm and lookup(lm))).encode()).hexdigest()


def fetch_code(lm: str) -> str:
    """Return the digest for weights from outside: gigabytes of a hub stay when code is edited."""
    entry = lookup(lm)
    if entry.package:
        return code("fetch", lm=lm)
    return sha256(repr((entry.folder or entry.hub, entry.dtype)).encode()).hexdigest()


# --- options of the command line -----------------------------------------------------------------


def options(settings: Mapping[str, Any]) -> str:
    """Write options: {"n_blocks": 2, "edits": [8, 9]} is --n-blocks 2 --edits 8 9."""
    words: list[str] = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
            continue
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name}", *(quote(str(one)) for one in values)]
    return " ".join(words)


def optional(**files: Any) -> str:
    """Write options whose files may be missing."""
    return options({name: file for name, file in files.items() if file})


def trained_option(counts: Iterable[int], files: Iterable[str]) -> str:
    """Write --trained FILE@COUNT ..., or nothing for an editor without training."""
    return optional(trained=[f"{file}@{m}" for m, file in zip(counts, files, strict=True)])


# --- files ---------------------------------------------------------------------------------------


def moments_of(editors: Iterable[str]) -> list[str]:
    """Return Adam's moments beside trained editors, which training goes on with."""
    return _beside(editors, ".adam.safetensors")


def _beside(files: Iterable[str], suffix: str) -> list[str]:
    return [str(Path(file).with_suffix(suffix)) for file in files]


def _next_smaller(files: Mapping[int, str], edits: int) -> list[str]:
    """Return the editor trained at the next smaller count, which training starts from."""
    smaller = [count for count in files if count < edits]
    return [files[max(smaller)]] if smaller else []


def _source_file(path: str) -> str:
    """Return the user's file, or one that is downloaded: `download:zsre_train.json`."""
    return f"<resources>/data/{path.removeprefix(PREFIX)}" if path.startswith(PREFIX) else path


@dataclass(frozen=True, eq=False)
class Jobs:
    """The jobs of a run.

    Paths begin with the workflow's `<results>` and `<resources>`, which Snakemake fills in. A file
    that not every job needs comes in a list, which is empty where it is not needed.

    Attributes:
        config: The configuration, complete and checked.
    """

    config: Mapping[str, Any]

    # --- language models and editors ---

    @property
    def lms(self) -> list[str]:
        """The language models that run."""
        return list(self.config["run"]["language_models"])

    @cached_property
    def references(self) -> dict[str, str]:
        """The editors that run: by name, what the command line finds each by."""
        return {find(editor).name: editor for editor in self.config["run"]["editors"]}

    @property
    def foreign(self) -> list[str]:
        """References to editors of no installed package."""
        return [reference for reference in self.references.values() if ":" in reference]

    @property
    def trained(self) -> list[str]:
        """The editors that are meta-trained."""
        return [editor for editor in self.references if find(editor).training]

    @property
    def imported(self) -> list[str]:
        """The language models whose rows come from real files."""
        return [lm for lm in self.lms if "sources" in self.settings(lm)]

    @property
    def answering(self) -> list[str]:
        """The language model that is asked before and after an edit, if it runs and MALMEN does."""
        asked = self.config["answers"]["language_model"]
        return [asked] if asked in self.lms and MALMEN.name in self.references else []

    def settings(self, lm: str) -> Mapping[str, Any]:
        """Return the section of a language model."""
        section: Mapping[str, Any] = self.config["language_models"][lm]
        return section

    def editors(self, lm: str) -> list[str]:
        """Return those of a language model: not left out, and with modules to edit there."""
        left_out = self.settings(lm).get("without", [])
        return [e for e in self.references if e not in left_out and find(e).edits(lookup(lm))]

    def weighing(self, lm: str) -> list[str]:
        """Return those of its editors that need statistics of keys."""
        return [editor for editor in self.editors(lm) if find(editor).statistics]

    def hyper_parameters(self, lm: str, editor: str) -> dict[str, Any]:
        """Return the common ones, then what the language model changes."""
        common, own = self.config["editors"], self.settings(lm)["editors"]
        return {**common.get(editor, {}), **own.get(editor, {})}

    def resolved_settings(self) -> dict[str, Any]:
        """Return the language models' settings, with the hyper-parameters of every editor."""

        def resolved(lm: str) -> dict[str, dict[str, Any]]:
            return {name: self.hyper_parameters(lm, name) for name in self.editors(lm)}

        return {lm: {**self.settings(lm), "editors": resolved(lm)} for lm in self.lms}

    def weights(self, lm: str) -> str:
        """Return the folder of a language model: as it arrived from outside, or trained here."""
        return f"<resources>/lm/{lm}" if lookup(lm).is_fetched else f"<results>/lm/{lm}"

    def made_models(self) -> list[str]:
        """Return the folders of the language models that are trained or fine-tuned here."""
        return [self.weights(lm) for lm in self.lms if not lookup(lm).is_fetched]

    def pretraining_options(self, lm: str) -> str:
        """Return the options of `malmen pretrain`."""
        about = self.config["pretraining"]
        return options(about | {"epochs": about["epochs"][lm], "seed": self.config["seed"]})

    # --- rows ---

    def rows(self, lm: str, split: str) -> str:
        """Return the rows of a split."""
        return f"<results>/rows/{lm}/{split}.jsonl"

    def prefix(self, lm: str, split: str, editor: str) -> list[str]:
        """Return the stored states of these rows; none for an editor of the blocks below."""
        is_used = find(editor).takes_prefix
        return [f"<results>/prefix/{lm}/{split}.safetensors"] if is_used else []

    def source_files(self, lm: str, split: str) -> dict[str, Any]:
        """Return the files that imported rows come from, by option."""
        source = self.settings(lm)["sources"][split]
        files: dict[str, Any] = {"files": [_source_file(path) for path in source["files"]]}
        if "unrelated" in source:
            files["unrelated"] = _source_file(source["unrelated"])
        return files

    def earlier_splits(self, lm: str, split: str) -> list[str]:
        """Return rows not to repeat: evaluation is drawn first, then train, then validation."""
        order = ["evaluation", "train", "validation"]
        return [self.rows(lm, earlier) for earlier in order[: order.index(split)]]

    def checker_files(self, lm: str) -> dict[str, Any]:
        """Return a fact checker's claims, for training and test: GeoNames facts, or FEVER files."""
        if lm not in self.imported:
            return {"facts": "<results>/facts.jsonl"}
        sides = {"fever": "train", "fever_held_out": "evaluation"}
        return {name: self.source_files(lm, split)["files"] for name, split in sides.items()}

    # --- statistics of keys ---

    def statistics(self, lm: str, editor: str) -> list[str]:
        """Return the statistics of keys, for an editor that needs them."""
        return [f"<results>/statistics/{lm}.safetensors"] if find(editor).statistics else []

    def statistics_texts(self) -> dict[str, str]:
        """Return files of texts to average keys over, by option; none for the hub's."""
        texts = self.config["statistics"]["texts"]
        if texts.startswith("hub:"):
            return {}
        return {"facts": "<results>/facts.jsonl"} if texts == "facts" else {"texts": texts}

    def statistics_options(self, lm: str, texts: Mapping[str, Any]) -> str:
        """Return the options of `malmen key-statistics`, given the files of texts."""
        about = {key: self.config["statistics"][key] for key in ("samples", "length")}
        if not texts:
            texts = {"dataset": self.config["statistics"]["texts"].removeprefix("hub:")}
        editor = self.weighing(lm)[0]
        hyper = self.hyper_parameters(lm, editor)
        about |= {key: hyper[key] for key in ("precision",) if key in hyper}
        reference = self.references[editor]
        return options({"editor": reference, **texts, **about, "seed": self.config["seed"]})

    # --- meta-training and evaluation ---

    def stages(self, lm: str) -> dict[int, dict[str, int]]:
        """Return how meta-training goes at each number of edits, in the order of training."""
        return {stage["edits"]: stage for stage in self.settings(lm)["training"]}

    def schedule(self, lm: str) -> dict[int, int]:
        """Return the most steps of meta-training by number of edits, in the order of training."""
        return {stage["edits"]: stage["steps"] for stage in self.settings(lm)["training"]}

    def editor_files(self, lm: str, editor: str) -> dict[int, str]:
        """Return the trained editors by number of edits; none for one that needs no training."""
        counts = self.schedule(lm) if editor in self.trained else ()
        elsewhere = self.settings(lm).get("editors_of")
        results = f"results/{elsewhere}" if elsewhere else "<results>"
        return {m: f"{results}/editors/{lm}/{editor}_{m}.safetensors" for m in counts}

    def edited_by_one(self, lm: str) -> list[tuple[str, int]]:
        """Return the trained editors, with their counts, that edit at every count for once."""
        counts = self.settings(lm).get("edited_by", [])
        return [(e, m) for e in self.editors(lm) if e in self.trained for m in counts]

    def warm_start(self, lm: str, editor: str, edits: int) -> list[str]:
        """Return the trained editor that meta-training starts from, if there is a smaller one."""
        return _next_smaller(self.editor_files(lm, editor), edits)

    def training_options(
        self, lm: str, editor: str, *, stage: Mapping[str, int], **changes: Any
    ) -> str:
        """Return the options of `malmen train`, with changes to the hyper-parameters.

        Args:
            lm: The language model.
            editor: The editor.
            stage: Its edits and steps, with patience and pace of its evaluations if it has them.
            changes: Hyper-parameters that differ.
        """
        steps = stage["steps"]
        pace = {"evaluate_every": max(8, steps // 16), "checkpoint_every": -(-steps // 64)}
        hyper = {**self.hyper_parameters(lm, editor), **changes}
        return options({**pace, **stage, "seed": self.config["seed"], **hyper})

    def evaluation_options(
        self, lm: str, editor: str, *, edits: int | list[int], sets: int, **changes: Any
    ) -> str:
        """Return the options of `malmen evaluate`; a trained editor brings its own settings."""
        hyper = {**self.hyper_parameters(lm, editor), **changes}
        about = {"edits": edits, "sets": sets, "seed": self.config["seed"]}
        about |= {key: hyper[key] for key in ("fact_batch", "modules") if key in hyper}
        if lm not in self.imported:
            about["data"] = ["geonames"]
        if editor not in self.trained:
            about |= {f"{editor}.{key}": value for key, value in hyper.items()}
        return options(about)

    def evaluations(self, lms: Iterable[str]) -> list[str]:
        """Return the per-fact results of every editor on the given language models."""
        pattern = "<results>/evaluations/{}/{}.parquet"
        return [
            pattern.format(lm, name)
            for lm in lms
            for name in [*self.editors(lm), *(f"{e}_at_{m}" for e, m in self.edited_by_one(lm))]
        ]

    # --- ablations ---

    @property
    def ablated(self) -> str:
        """The language model that MALMEN is ablated on."""
        return str(self.config["ablations"]["language_model"])

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        """What each variant changes, by its name."""
        variants: Mapping[str, Mapping[str, Any]] = self.config["ablations"]["variants"]
        return variants

    def variant_editor(self, variant: str) -> str:
        """Return the editor that a variant is a change of."""
        return str(self.variants[variant].get("editor", MALMEN.name))

    def variant_changes(self, variant: str) -> dict[str, Any]:
        """Return the settings that a variant changes."""
        return {key: value for key, value in self.variants[variant].items() if key != "editor"}

    def variant_schedule(self) -> dict[int, int]:
        """Return the steps of a variant's meta-training, as far as it is evaluated."""
        largest = max(self.config["ablations"]["edits"])
        return {m: steps for m, steps in self.schedule(self.ablated).items() if m <= largest}

    def variant_files(self, variant: str) -> dict[int, str]:
        """Return the trained variants by number of edits."""
        pattern = f"<results>/ablations/{self.ablated}/{variant}_{{}}.safetensors"
        return {edits: pattern.format(edits) for edits in self.variant_schedule()}

    def variant_warm_start(self, variant: str, edits: int) -> list[str]:
        """Return the trained variant that meta-training starts from."""
        return _next_smaller(self.variant_files(variant), edits)

    def ablations(self) -> list[str]:
        """Return the per-fact results of MALMEN and of its variants."""
        unchanged = f"<results>/evaluations/{self.ablated}/{MALMEN.name}.parquet"
        changed = (f"<results>/ablations/{self.ablated}/{name}.parquet" for name in self.variants)
        return [unchanged, *changed]

    # --- the search for hyper-parameters ---

    def searched(self, lm: str) -> list[str]:
        """Return the editors of a language model that there is a grid for."""
        return [editor for editor in self.editors(lm) if editor in self.config["search"]["grid"]]

    def trials(self, editor: str) -> list[dict[str, Any]]:
        """Return what is tried for an editor, as changes to its hyper-parameters."""
        return published_settings.trials(editor, self.config["search"]["grid"][editor])

    def searches(self) -> list[str]:
        """Return the lists of trials."""
        return [f"<results>/search/{lm}_{e}.csv" for lm in self.lms for e in self.searched(lm)]

    # --- memory ---

    @property
    def measured(self) -> str:
        """The language model whose memory is measured."""
        return str(self.config["memory"]["language_model"])

    def memory_options(self) -> str:
        """Return the options of `malmen memory`: what shapes MALMEN's network and batches."""
        names = {field.name for field in fields(HyperSettings)}
        hyper = self.hyper_parameters(self.measured, MALMEN.name).items()
        about = {key: self.config["memory"][key] for key in ("edits", "limit_mb")}
        about |= {"seed": self.config["seed"], **{k: v for k, v in hyper if k in names}}
        return options(about)

    def memory_files(self) -> list[str]:
        """Return the measurements of memory, if their language model is among those that run."""
        return ["<results>/memory.csv"] if self.measured in self.lms else []

    # --- tables, figures, summaries ---

    @property
    def tables(self) -> list[str]:
        """The tables; that of ablations if their language model runs."""
        ablations = ["2"] if self.ablated in self.lms else []
        return ["1", "1b", *ablations, "3", "4", "5"]

    @property
    def curves(self) -> dict[str, str]:
        """The scaling curves, with their language models."""
        return {lookup(lm).figure or lm: lm for lm in self.lms}

    @property
    def figures(self) -> dict[str, dict[str, list[str]]]:
        """The figures drawn from results: the files of each, by option of `malmen figure`."""
        drawn = {name: {"evaluations": self.evaluations([lm])} for name, lm in self.curves.items()}
        if memory := self.memory_files():
            drawn[MEMORY_FIGURE] = {"memory": memory}
        if trained := self.preparations()["trained"]:
            drawn[LEARNING_FIGURE] = {"trained": trained}
        return drawn

    def foreign_option(self) -> str:
        """Return --editors ..., for what knows editors by their names in print."""
        return optional(editors=self.foreign)

    def preparations(self) -> dict[str, list[str]]:
        """Return run metadata of what comes before editing: meta-training, statistics of keys."""
        pairs = [(lm, editor) for lm in self.lms for editor in self.editors(lm)]
        trained = [file for pair in pairs for file in self.editor_files(*pair).values()]
        weighed = [f"<results>/statistics/{lm}.json" for lm in self.lms if self.weighing(lm)]
        return {"trained": _beside(trained, ".json"), "statistics": weighed}

    def table_inputs(self, number: str) -> dict[str, Any]:
        """Return the files that a table is made from, by option of `malmen table`."""
        is_from_facts = len(self.imported) < len(self.lms)
        files: dict[str, dict[str, Any]] = {
            "1": {"evaluations": self.evaluations(self.lms)},
            "1b": {},
            "2": {"evaluations": self.ablations()},
            "3": {"settings": "<results>/settings.json"},
            "4": {
                "settings": "<results>/settings.json",
                "weights": [self.weights(lm) for lm in self.lms],
                "rows": [self.rows(lm, split) for lm in self.lms for split in SPLITS],
                "facts": "<results>/facts.jsonl" if is_from_facts else [],
            },
            "5": {"evaluations": self.evaluations(self.lms), **self.preparations()},
        }
        return files[number]

    def table_files(self) -> list[str]:
        """Return every table, in every format."""
        parts = product(self.tables, TABLE_FORMATS)
        return [f"<results>/tables/table_{number}.{form}" for number, form in parts]

    def figure_files(self) -> list[str]:
        """Return every figure, in every format."""
        parts = product([*self.figures, *DIAGRAMS], FIGURE_FORMATS)
        return [f"<results>/figures/figure_{name}.{form}" for name, form in parts]

    def run_files(self) -> list[str]:
        """Return the files that hold the metadata of a run."""
        made = self.preparations()
        runs = [*self.evaluations(self.lms), *made["trained"], *made["statistics"]]
        if self.ablated in self.lms:
            trained = [file for name in self.variants for file in self.variant_files(name).values()]
            runs += [*self.ablations()[1:], *_beside(trained, ".json")]
        return [*runs, *_beside(self.memory_files(), ".json")]
