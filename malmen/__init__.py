"""Massive editing of language models by meta-learning (MALMEN), reproduced.

The package holds the method of Tan, Zhang and Fu, *Massive Editing for Large Language Models via
Meta Learning* (ICLR 2024, arXiv:2311.04661), and the command line that the workflow calls. Start
with `malmen.normal_equation`, which is the paper's theorems as code. What editing takes is exported
here, and the other editors by `baselines`; a name is imported when it is first asked for.

- Language models: `load` reads one of the catalogue, `use` adds files to the catalogue, `lookup`
  finds an `Entry` there; a `LanguageModel` is frozen, edits are swapped in and out.
- Facts: `read_rows` reads files of `ZsreRow` or `FeverRow`, `encode_rows` makes `EncodedFact` of
  them.
- Editing: an `Editor` turns facts into shifts of the weights; `MALMEN`, with its `HyperSettings`,
  is a `HyperNetworkEditor`, trained by `MetaTraining` with `TrainingSettings`; `load_editor` and
  `save_editor` keep it in a file; the others have `TokenSettings`, `FineTuningSettings` and
  `MemitSettings`; a `Card` makes an editor known to commands and workflow.
- Scores: `edit_and_score` edits all facts in at once, `evaluate` disjoint sets at every count.
- The normal equation: `parameter_shift` solves it and carries the theorems' gradients; `Sums` take
  keys in pieces, add up and come apart; the penalty is that of the norm, of a `Metric` or within a
  `Subspace`; a `NormalEquationError` says why it failed.
- `InputError` says that what was handed in cannot be used, and what to do.
"""

from typing import TYPE_CHECKING

from malmen.support.lazy import lazily

if TYPE_CHECKING:
    from malmen.data.rows import FeverRow as FeverRow
    from malmen.data.rows import ZsreRow as ZsreRow
    from malmen.data.rows import read_rows as read_rows
    from malmen.editor import Editor as Editor
    from malmen.editor import HyperNetworkEditor as HyperNetworkEditor
    from malmen.evaluation import edit_and_score as edit_and_score
    from malmen.evaluation import evaluate as evaluate
    from malmen.experiment.cards import Card as Card
    from malmen.experiment.editors import load_editor as load_editor
    from malmen.experiment.editors import save_editor as save_editor
    from malmen.experiment.loading import load as load
    from malmen.lm.catalogue import Entry as Entry
    from malmen.lm.catalogue import lookup as lookup
    from malmen.lm.catalogue import use as use
    from malmen.lm.encoding import EncodedFact as EncodedFact
    from malmen.lm.encoding import encode_rows as encode_rows
    from malmen.lm.language_model import LanguageModel as LanguageModel
    from malmen.malmen import MALMEN as MALMEN
    from malmen.normal_equation import Metric as Metric
    from malmen.normal_equation import NormalEquationError as NormalEquationError
    from malmen.normal_equation import Subspace as Subspace
    from malmen.normal_equation import Sums as Sums
    from malmen.normal_equation import parameter_shift as parameter_shift
    from malmen.settings import FineTuningSettings as FineTuningSettings
    from malmen.settings import HyperSettings as HyperSettings
    from malmen.settings import MemitSettings as MemitSettings
    from malmen.settings import TokenSettings as TokenSettings
    from malmen.settings import TrainingSettings as TrainingSettings
    from malmen.support.errors import InputError as InputError
    from malmen.training import MetaTraining as MetaTraining

__version__ = "0.1.0"

_PUBLIC = {
    "malmen.data.rows": ["FeverRow", "ZsreRow", "read_rows"],
    "malmen.editor": ["Editor", "HyperNetworkEditor"],
    "malmen.evaluation": ["edit_and_score", "evaluate"],
    "malmen.experiment.cards": ["Card"],
    "malmen.experiment.editors": ["load_editor", "save_editor"],
    "malmen.experiment.loading": ["load"],
    "malmen.lm.catalogue": ["Entry", "lookup", "use"],
    "malmen.lm.encoding": ["EncodedFact", "encode_rows"],
    "malmen.lm.language_model": ["LanguageModel"],
    "malmen.malmen": ["MALMEN"],
    "malmen.normal_equation": [
        "Metric",
        "NormalEquationError",
        "Subspace",
        "Sums",
        "parameter_shift",
    ],
    "malmen.settings": [
        "FineTuningSettings",
        "HyperSettings",
        "MemitSettings",
        "TokenSettings",
        "TrainingSettings",
    ],
    "malmen.support.errors": ["InputError"],
    "malmen.training": ["MetaTraining"],
}

__all__ = [name for names in _PUBLIC.values() for name in names]
if not TYPE_CHECKING:  # which would let any name pass
    __getattr__ = lazily(__name__, _PUBLIC)
