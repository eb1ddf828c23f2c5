"""Files of rows, written by hand."""

import gzip
import json

ZSRE = {"src": "Who?", "rephrase": ["Which one?"], "ans": "She", "loc": "Where?", "loc_ans": "Here"}
FEVER = {
    "prompt": "It is.",
    "equiv_prompt": ["So it is."],
    "unrel_prompt": "It was.",
    "alt": "REFUTES",
    "unrel_ans": "SUPPORTS",
}


def write(path, content):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(content)
    return path


def write_lines(path, *rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))
