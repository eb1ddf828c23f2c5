"""Copies of the repository in which the real `snakemake` runs a stand-in for `malmen`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")

STAND_IN = """\
#!{python} -IS
import os, sys
command, *words = sys.argv[1:]
options = {{}}
for word in words:
    if word.startswith("--"):
        options[word] = values = []
    else:
        values.append(word)
with open("calls.log", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
print(command, "begins", file=sys.stderr)
if command == os.environ.get("FAILING"):
    sys.exit("the stand-in fails as told")
for path in options.get("--out", []):
    if command in ("fetch", "fact-checker", "pretrain"):
        os.makedirs(path)
    else:
        open(path, "w").close()
    beside = {{
        "train": (".json", ".csv", ".adam.safetensors"),
        "key-statistics": (".json",),
        "memory": (".json",),
    }}
    for suffix in beside.get(command, ()):
        open(os.path.splitext(path)[0] + suffix, "w").close()
figure = ["figure_%s.%s" % (options.get("--name", [""])[0], end) for end in ("pdf", "png", "csv")]
for folder in options.get("--out-dir", []):
    names = {{
        "rows": [split + ".jsonl" for split in ("train", "validation", "evaluation")],
        "prefix": [os.path.basename(rows).replace("jsonl", "safetensors")
                   for rows in options.get("--rows", [])],
        "table": ["table_%s.%s" % (options.get("--number", [""])[0], end)
                  for end in ("md", "tex", "csv")],
        "figure": figure,
        "diagram": figure,
        "claims": ["claims.md", "claims.csv"],
    }}[command]
    for name in names:
        open(os.path.join(folder, name), "w").close()
"""


class Checkout:
    """A copy of the repository's workflow and code, without results, to run Snakemake in."""

    def __init__(self, folder: Path, overlay: dict | None = None) -> None:
        self.folder = folder
        self.overlay = overlay or {}  # over every configuration it is run with

    @classmethod
    def create(cls, folder: Path) -> "Checkout":
        for name in ("workflow", "config", "profiles", "malmen", "baselines"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("Snakefile", "environment.yml"):
            shutil.copy(ROOT / name, folder)
        stand_in = folder / "bin" / "malmen"
        stand_in.parent.mkdir()
        stand_in.write_text(STAND_IN.format(python=sys.executable))
        stand_in.chmod(0o755)
        return cls(folder)

    def copy(self, folder: Path) -> "Checkout":
        """Another one, with the same results and Snakemake's record of them."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Checkout(folder, self.overlay)

    def snakemake(self, *arguments, overlay=None, scale=None, cores=2, **environment):
        """Run Snakemake; `overlay` is a mapping over the scale's configuration."""
        files = [f"config/{scale}.yaml"] if scale else []
        if overlay := {**self.overlay, **(overlay or {})}:
            (self.folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
            files.append("overlay.yaml")
        path = os.pathsep.join(
            [str(self.folder / "bin"), str(SNAKEMAKE.parent), os.environ["PATH"]]
        )
        command = [SNAKEMAKE, "--cores", cores, "--nocolor", *arguments]
        command += ["--configfile", *files] if files else []
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**os.environ, "PATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, command):
        """Calls of one subcommand so far, in the order in which they began."""
        lines = (self.folder / "calls.log").read_text().splitlines()
        return [line for line in lines if line.startswith(command + " ")]


def commands(run, name, *, out):
    """Options of a subcommand's calls that write below a folder, as a dry run prints them."""
    calls = re.findall(rf"malmen {name} (--.*) 2> ", run.stdout + run.stderr)
    return [call for call in calls if f"--out results/{out}/" in call]


def options_of(call):
    """Options of a command with their values."""
    pairs = re.findall(r"(--[a-z.-]+)((?: (?!--)\S+)*)", call)
    return {name: value.strip() for name, value in pairs}
