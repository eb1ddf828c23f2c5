"""Tables typeset by LaTeX, where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

LATEX = shutil.which("pdflatex")


def compile_latex(folder: Path, *numbers: str) -> str:
    """Typeset tables in an article that loads nothing but booktabs, and return the log."""
    if LATEX is None:
        pytest.skip("needs pdflatex")
    inputs = "\n".join(rf"\input{{table_{number}}}\clearpage" for number in numbers)
    preamble = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    text = "\n".join([preamble, inputs, r"\end{document}"])
    (folder / "all.tex").write_text(text, encoding="utf-8")
    command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout
