"""The editors that MALMEN is compared with, and what MEMIT needs besides.

An editor that works token by token shows in one screen how it differs from `malmen.malmen`.
Exported are `FineTuning`; `MEND`, which is trained as MALMEN is; `UltraEdit`; and `MEMIT`, which
takes `KeyStatistics`. `malmen` exports what they edit and their settings.
"""

from typing import TYPE_CHECKING

from malmen.support.lazy import lazily

if TYPE_CHECKING:
    from baselines.fine_tuning import FineTuning as FineTuning
    from baselines.key_statistics import KeyStatistics as KeyStatistics
    from baselines.memit import MEMIT as MEMIT
    from baselines.mend import MEND as MEND
    from baselines.ultraedit import UltraEdit as UltraEdit

_PUBLIC = {
    "baselines.fine_tuning": ["FineTuning"],
    "baselines.key_statistics": ["KeyStatistics"],
    "baselines.memit": ["MEMIT"],
    "baselines.mend": ["MEND"],
    "baselines.ultraedit": ["UltraEdit"],
}

__all__ = [name for names in _PUBLIC.values() for name in names]
if not TYPE_CHECKING:  # which would let any name pass
    __getattr__ = lazily(__name__, _PUBLIC)
