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

# One case of CounterFact, in the two layouts it is found in.
FLAT = {
    "case_id": 1,
    "prompt": "Ada speaks",
    "target_new": "Dutch",
    "subject": "Ada",
    "ground_truth": "Greek",
    "rephrase_prompt": "The language of Ada is",
    "locality_prompt": "Bob speaks",
    "locality_ground_truth": "Greek",
}
NESTED = {
    "case_id": 1,
    "requested_rewrite": {
        "prompt": "{} speaks",
        "relation_id": "P103",
        "target_new": {"str": "Dutch", "id": "Q1"},
        "target_true": {"str": "Greek", "id": "Q2"},
        "subject": "Ada",
    },
    "paraphrase_prompts": ["It is late. The language of Ada is", "Ada talks in"],
    "neighborhood_prompts": ["Bob speaks", "Cyd speaks"],
    "attribute_prompts": ["Dee speaks"],
}


def write(path, content):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(content)
    return path


def write_lines(path, *rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))
