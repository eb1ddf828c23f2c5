"""What the stages of a run are told; the options of their commands follow from these classes.

Nothing heavy is imported here: `malmen --help` reads it.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from malmen.lm.catalogue import Modules, shipped

__all__ = [
    "Answering",
    "BuiltModel",
    "Checking",
    "Device",
    "EditedModel",
    "Evaluating",
    "FetchedModel",
    "Measuring",
    "Model",
    "OptionalPath",
    "Pretraining",
    "RowMaking",
    "Storing",
    "Training",
    "Weighing",
    "Weights",
    "one_of",
]


def one_of(names: Iterable[str]) -> Any:
    """Let ``--help`` list the names; whoever uses the option refuses others in one line."""
    return tyro.conf.arg(metavar=f"{{{','.join(names)}}}")


FetchedModel = Annotated[str, one_of(n for n, entry in shipped().items() if entry.is_fetched)]
BuiltModel = Annotated[str, one_of(n for n, entry in shipped().items() if entry.built)]
EditedModel = Annotated[str, one_of(n for n, entry in shipped().items() if entry.edited)]
Device = Annotated[str | None, one_of(("cpu", "cuda", "cuda:N"))]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A language model."""

    lm: EditedModel
    """Name in the catalogue."""
    weights: Path
    """Folder of the model."""
    started: float = field(default_factory=time.perf_counter, init=False)
    """When the command began, by `time.perf_counter`."""


@dataclass(frozen=True, kw_only=True)
class Model(Weights):
    """A language model, and where it computes."""

    device: Device = None
    """Where to compute; a GPU unless there is none."""


@dataclass(frozen=True, kw_only=True)
class Checking:
    """A fact checker to be made."""

    base: Path
    """Folder of the encoder."""
    out: Path
    """Folder of the model."""
    facts: OptionalPath = None
    """File of `malmen facts`."""
    fever: list[Path] = field(default_factory=list)
    """FEVER files instead: raw claims, or rows, whose unrelated claims have true labels."""
    fever_held_out: list[Path] = field(default_factory=list)
    """FEVER files whose claims accuracy is measured on."""
    claims: int = 12000
    """Number of claims to train on; of FEVER's, at most."""
    held_out: int = 1000
    """Number of claims, about unseen subjects, to measure accuracy on."""
    seed: int = 0
    """Of claims, initialisation and order."""
    device: Device = None
    """Where to compute; a GPU unless there is none."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A language model to be pre-trained."""

    lm: BuiltModel
    """Name in the catalogue."""
    facts: Path
    """File of `malmen facts`."""
    out: Path
    """Folder of the model."""
    subjects: int = 300
    """Number of subjects whose facts are learned, the most prominent ones."""
    seed: int = 0
    """Of subjects, initialisation and order."""


@dataclass(frozen=True, kw_only=True)
class RowMaking(Model):
    """Rows to be made of facts."""

    facts: Path
    """File of `malmen facts`."""
    out_dir: Path
    """Folder for train.jsonl, validation.jsonl and evaluation.jsonl."""
    train: int
    """Number of rows for meta-training."""
    validation: int
    """Number of rows for validation."""
    evaluation: int
    """Number of rows for evaluation."""
    seed: int = 0
    """Of all draws."""


@dataclass(frozen=True, kw_only=True)
class Storing(Model):
    """States to be stored."""

    rows: list[Path]
    """Files of rows."""
    out_dir: Path
    """Folder for the prefix stores: NAME.safetensors for NAME.jsonl. A store that does not fit on
    the disk says so and holds nothing; whatever reads it runs the blocks again."""
    seed: int = 0
    """Of the draw of paraphrases; the same for every command."""


@dataclass(frozen=True, kw_only=True)
class Weighing(Model):
    """Statistics of keys to be computed."""

    out: Path
    """The statistics, safetensors; run metadata (.json) stand beside it."""
    facts: OptionalPath = None
    """File of `malmen facts`: half of the texts are facts, half are sampled from the model."""
    texts: OptionalPath = None
    """File of texts instead: lines of a .txt, or the field "text" of a .jsonl."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Data set of the Hugging Face hub instead, downloaded as it is read; for the paper's
    Wikipedia, wikimedia/wikipedia:20231101.en and 100,000 samples."""
    samples: int = 2000
    """Number of texts."""
    length: int = 64
    """Tokens of a text, at most."""
    precision: Literal["float32", "stored"] = "float32"
    """Of the language model, the same as the editor's."""
    seed: int = 0
    """Of all draws."""


@dataclass(frozen=True, kw_only=True)
class Training(Model):
    """A meta-training."""

    rows: Path
    """Meta-training rows."""
    validation_rows: Path
    """Rows for the periodic evaluation."""
    edits: int
    """Facts edited at once in every step."""
    steps: int
    """Largest number of steps."""
    out: Path
    """The best editor, safetensors; run metadata (.json), losses and validation scores (.csv) and
    Adam's moments (.adam.safetensors) stand beside it."""
    prefix: OptionalPath = None
    """Prefix store of the meta-training rows; without it, the frozen blocks run again."""
    validation_prefix: OptionalPath = None
    """Prefix store of the validation rows, which goes with the other one."""
    init: OptionalPath = None
    """Editor to start from, such as one trained at fewer edits."""
    moments: OptionalPath = None
    """Adam's moments of that editor, to go on with; without them, they start at zero."""
    modules: Modules = "edited"
    """Which of the catalogue's choices of modules are edited."""
    seed: int = 0
    """Of initial weights and the order of facts."""


@dataclass(frozen=True, kw_only=True)
class Evaluating(Model):
    """An evaluation."""

    rows: Path
    """The pool of rows."""
    edits: list[int]
    """Numbers of facts edited at once."""
    sets: int
    """Disjoint edit sets a number."""
    out: Path
    """Per-fact results, Parquet."""
    prefix: OptionalPath = None
    """Prefix store of these rows; without it, the frozen blocks run again. An editor of lower
    blocks, such as MEMIT, takes none."""
    trained: list[str] = field(default_factory=list)
    """FILE@COUNT for every trained editor; each count is edited by the one trained at the nearest
    count from above, or at the largest."""
    trained_alone: bool = False
    """Whether results are a curve of their own, named by the count of the one trained editor that
    edits at all counts."""
    modules: Modules = "edited"
    """Which of the catalogue's choices of modules are edited, as in training. Some editors, such
    as MEMIT, edit their own."""
    statistics: OptionalPath = None
    """Key statistics, for editors that need them."""
    data: list[str] = field(default_factory=list)
    """What the rows were made from, a key of `malmen.experiment.provenance.ATTRIBUTIONS`."""
    seed: int = 0
    """Of what the editor draws; also recorded."""
    fact_batch: int = 32
    """Facts at a time when they are scored."""
    asked: int = 0
    """Facts of an edit set that the language model is asked about, to answer freely; what it wrote
    is kept beside the results, in EDITOR.answers.jsonl."""
    chat: bool = False
    """Whether it is asked in its chat template."""


@dataclass(frozen=True, kw_only=True)
class Answering(Model):
    """Prompts to be answered."""

    trained: Path
    """A trained editor."""
    rows: Path
    """Rows to edit in; the first ones are taken."""
    edits: int
    """Number of rows edited at once."""
    out: Path
    """JSON list of answers."""
    show: int = 4
    """Number of rows whose answers are shown."""


@dataclass(frozen=True, kw_only=True)
class Measuring(Weights):
    """Memory to be measured."""

    rows: Path
    """Rows to edit in; the first ones are taken."""
    prefix: Path
    """Prefix store of these rows."""
    edits: list[int]
    """Numbers of facts edited at once."""
    limit_mb: float
    """Memory above the loaded model from which on a procedure does not fit; larger numbers of edits
    are then left out. The machine needs twice as much."""
    out: Path
    """CSV, one row a measurement; run metadata (.json) stands beside it."""
    seed: int = 0
    """Of initial weights."""
