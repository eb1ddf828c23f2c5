"""A tiny Wikipedia in the layout of the hub's `wikimedia/wikipedia`, for the server of the tests.

A configuration is a dump of one language: a folder of Parquet files, several row groups each. The
card of the repository names them and says what their columns are.
"""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from flaky_server import Server

REPOSITORY = "wikimedia/wikipedia"
DUMP = "20231101.en"
COLUMNS = ("id", "url", "title", "text")


def publish_wikipedia(
    server: Server,
    texts: Sequence[str],
    *,
    files: int = 3,
    rows_a_group: int = 4,
    columns: Sequence[str] = COLUMNS,
) -> list[str]:
    """Serve texts as the English dump, and a German one beside it; return the English files."""
    dumps = {
        DUMP: [list(texts[k::files]) for k in range(files)],
        "20231101.de": [["Ein deutscher Text."]],
    }
    content = {"README.md": _card(dumps, columns)}
    for dump, parts in dumps.items():
        for k, part in enumerate(parts):
            name = f"{dump}/train-{k:05d}-of-{len(parts):05d}.parquet"
            content[name] = _parquet(part, columns, rows_a_group=rows_a_group)
    large = tuple(name for name in content if name.endswith(".parquet"))
    server.publish(f"datasets/{REPOSITORY}", content, large=large)
    return [name for name in large if name.startswith(DUMP)]


def _parquet(texts: Sequence[str], columns: Sequence[str], *, rows_a_group: int) -> bytes:
    rows = [dict.fromkeys(COLUMNS, str(i)) | {"text": text} for i, text in enumerate(texts)]
    table = pa.table({name: [row[name] for row in rows] for name in columns})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows_a_group)
    return buffer.getvalue()


def _card(dumps: dict[str, list[list[str]]], columns: Sequence[str]) -> bytes:
    about = {
        "dataset_info": [
            {
                "config_name": dump,
                "features": [{"name": name, "dtype": "string"} for name in columns],
                "splits": [{"name": "train", "num_examples": sum(map(len, parts))}],
            }
            for dump, parts in dumps.items()
        ],
        "configs": [
            {"config_name": dump, "data_files": [{"split": "train", "path": f"{dump}/*"}]}
            for dump in dumps
        ],
    }
    return f"---\n{yaml.safe_dump(about)}---\n# Wikipedia\n".encode()
