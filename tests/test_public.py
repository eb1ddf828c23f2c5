"""What the packages export: few names, described, and imported when they are first asked for."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import baselines
import malmen

PACKAGES = pytest.mark.parametrize("package", [malmen, baselines], ids=lambda one: one.__name__)


@PACKAGES
def test_every_name_is_there_and_documented(package: ModuleType) -> None:
    assert len(package.__all__) == len(set(package.__all__)) <= 30
    for name in package.__all__:
        assert getattr(package, name).__doc__, name
        assert f"`{name}`" in (package.__doc__ or ""), name
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'no'"):
        package.no  # noqa: B018


@PACKAGES
def test_type_checkers_see_the_same_names(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = [(node.module, alias.name) for node in imports for alias in node.names]
    assert all(alias.asname == alias.name for node in imports for alias in node.names)
    assert seen == [(module, name) for module, names in package._PUBLIC.items() for name in names]


def test_importing_the_packages_imports_nothing_heavy() -> None:
    code = "import sys, malmen, baselines; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "pandas", "yaml"} & set(done.stdout.split())
