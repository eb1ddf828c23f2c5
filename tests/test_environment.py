"""pyproject.toml, environment.yml, requirements.lock and CITATION.cff say the same."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

import malmen
from malmen.reporting.verify import TOLERANCES

ROOT = Path(__file__).resolve().parents[1]
LOCK_LINE = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+( ; .+)?")
FORBIDDEN_IN_LOCK = {
    "a local version label": re.compile(r"\+[a-z]*cpu|\+cu\d|==[^ ]*\+"),
    "a URL": re.compile(r"[a-z]+://| @ "),
    "a path": re.compile(r"(^|[\s=])[~.]{0,2}/\w"),
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def project_tool() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def data_files(package: str) -> list[Path]:
    """Everything in a package that is not code."""
    found = (ROOT / package).rglob("*.*")
    return [path for path in found if path.suffix not in (".py", ".pyc") and path.is_file()]


def project_requirements() -> list[Requirement]:
    extras = project()["optional-dependencies"].values()
    return [Requirement(line) for line in (*project()["dependencies"], *chain(*extras))]


def conda_dependencies() -> list[Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text()


def lock_lines() -> list[str]:
    return [line for line in lock_text().splitlines() if line and not line.startswith("#")]


def locked() -> list[Requirement]:
    return [Requirement(line) for line in lock_lines()]


def signature(requirement: Requirement) -> tuple[str, str, frozenset[str], str]:
    """What makes two requirements the same, however they are spelt."""
    return (
        canonicalize_name(requirement.name),
        str(requirement.specifier),
        frozenset(requirement.extras),
        str(requirement.marker),
    )


def forbidden(text: str) -> list[str]:
    return [what for what, pattern in FORBIDDEN_IN_LOCK.items() if pattern.search(text)]


def installed_closure() -> set[str]:
    """Names of everything this interpreter needs to run the project, extras followed."""
    pending = project_requirements()
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement = pending.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for line in requires(requirement.name) or []:
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in extras):
                pending.append(needed)
    return {name for name, _ in seen}


def third_party_imports() -> set[str]:
    """Top-level names of what the code imports, wherever in a file, that is not its own."""
    packages = ("malmen", "baselines", "benchmarks")
    names: set[str] = set()
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module).partition(".")[0])
    return names - sys.stdlib_module_names - set(packages)


def test_every_import_is_declared():
    listed = project()["dependencies"] + project()["optional-dependencies"]["workflow"]
    declared = {canonicalize_name(Requirement(line).name) for line in listed}
    distributions = packages_distributions()
    for name in third_party_imports():
        found = {canonicalize_name(one) for one in distributions[name]}
        assert found & declared, f"{name} is imported and not declared ({', '.join(found)})"


def test_conda_pip_section_agrees_with_pyproject():
    (pip_section,) = (entry["pip"] for entry in conda_dependencies() if isinstance(entry, dict))
    conda = [signature(Requirement(line)) for line in pip_section]
    assert sorted(conda, key=repr) == sorted(map(signature, project_requirements()), key=repr)


def test_conda_python_agrees_with_pyproject():
    assert f"python{project()['requires-python']}" in conda_dependencies()


def test_lock_satisfies_every_dependency():
    for requirement in project_requirements():
        name = canonicalize_name(requirement.name)
        versions = [pin.specifier for pin in locked() if canonicalize_name(pin.name) == name]
        assert versions, f"requirements.lock misses {name}"
        for version in versions:
            (pin,) = version
            assert pin.version in requirement.specifier, f"{name}{version} against {requirement}"


def test_lock_holds_what_the_dependencies_need():
    # torch's GPU wheels pin their own CUDA libraries, which the lock leaves to them.
    cuda = re.compile(r"nvidia-|cuda-|triton$")
    needed = {name for name in installed_closure() if not cuda.match(name)}
    assert needed <= {canonicalize_name(pin.name) for pin in locked()}


def test_lock_is_only_exact_versions():
    assert [line for line in lock_lines() if not LOCK_LINE.fullmatch(line)] == []


def test_lock_names_no_place():
    assert forbidden(lock_text()) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("torch==2.13.0+cpu", "a local version label"),
        ("torch==2.13.0+cu130", "a local version label"),
        ("torch @ https://example.org/torch.whl", "a URL"),
        ("--find-links /srv/wheels", "a path"),
        ("--find-links=/srv/wheels", "a path"),
        ("./wheels/torch.whl", "a path"),
    ],
)
def test_forbidden_lines_are_noticed(line: str, what: str):
    assert what in forbidden(f"numpy==2.4.6\n{line}\n")


def test_a_wheel_holds_every_data_file():
    folders = set(find_packages(str(ROOT), include=project_tool()["packages"]["find"]["include"]))
    data = project_tool()["package-data"]
    packaged = {
        path
        for folder in folders
        for pattern in (*data.get("*", []), *data.get(folder, []))
        for path in ROOT.joinpath(*folder.split(".")).glob(pattern)
    }
    assert set(data) - {"*"} <= folders
    for path in {TOLERANCES, *data_files("malmen"), *data_files("baselines")}:
        assert path in packaged, path


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert malmen.__version__ == project()["version"] == citation["version"]
