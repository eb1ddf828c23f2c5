"""The configurations that ship, merged with their overlays."""

import json
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from malmen.experiment.consistency import check
from malmen.support.errors import InputError

ROOT = Path(__file__).parents[2]


def load(name, overlay=None):
    """Merge the way Snakemake does: mappings merge, lists replace."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = json.loads(json.dumps(config))  # an alias of YAML becomes a copy
    if name != "config":
        update_config(config, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    update_config(config, overlay or {})
    return config


def problems(overlay, name="config"):
    with pytest.raises(InputError) as caught:
        check(load(name, overlay))
    return str(caught.value).splitlines()
