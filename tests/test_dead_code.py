"""Nothing in the packages is there for the tests alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("malmen", "baselines")


def trees(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        yield path.relative_to(ROOT), ast.parse(path.read_text("utf-8"))


def names_used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.rpartition(":")[2]  # a card's `package.module:Class`


def test_every_function_and_class_is_used() -> None:
    used = {name for _, tree in trees(*PACKAGES, "benchmarks") for name in names_used(tree)}
    rules = "".join(path.read_text("utf-8") for path in (ROOT / "workflow").rglob("*.smk"))
    unused = [
        f"{path}: {node.name}"
        for path, tree in trees(*PACKAGES)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.decorator_list
        if node.name not in used and f"{node.name}(" not in rules
    ]
    assert not unused
