# `snakemake --cores all search`: equally many trials for every editor, scored on validation rows.


rule search:
    input:
        RUN.searches(),


use rule train as search_train with:
    input:
        weights=weights,
        rows="<results>/rows/{lm}/train.jsonl",
        prefix="<results>/prefix/{lm}/train.safetensors",
        validation_rows="<results>/rows/{lm}/validation.jsonl",
        validation_prefix="<results>/prefix/{lm}/validation.safetensors",
        init=[],
        moments=[],
    output:
        editor="<results>/search/{lm}/{editor}_{trial}.safetensors",
        moments="<results>/search/{lm}/{editor}_{trial}.adam.safetensors",
        metadata="<results>/search/{lm}/{editor}_{trial}.json",
        losses="<results>/search/{lm}/{editor}_{trial}.csv",
    log:
        "<logs>/search/train_{lm}_{editor}_{trial}.log",
    benchmark:
        "<benchmarks>/search/train_{lm}_{editor}_{trial}.jsonl"
    params:
        editor=lambda wildcards: RUN.references[wildcards.editor],
        init="",
        options=lambda wildcards: RUN.training_options(
            wildcards.lm,
            wildcards.editor,
            stage={key: config["search"][key] for key in ("edits", "steps")},
            **trial(wildcards),
        ),
    message:
        "Search: meta-train {wildcards.editor} on {wildcards.lm}, trial {wildcards.trial}"


use rule evaluate as search_evaluate with:
    input:
        weights=weights,
        rows="<results>/rows/{lm}/validation.jsonl",
        prefix=prefix_file("validation"),
        statistics=statistics_file,
        trained=lambda wildcards: (
            ["<results>/search/{lm}/{editor}_{trial}.safetensors"]
            if wildcards.editor in RUN.trained
            else []
        ),
    output:
        "<results>/search/{lm}/{editor}_{trial}.parquet",
    log:
        "<logs>/search/evaluate_{lm}_{editor}_{trial}.log",
    benchmark:
        "<benchmarks>/search/evaluate_{lm}_{editor}_{trial}.jsonl"
    params:
        editor=lambda wildcards: RUN.references[wildcards.editor],
        files=lambda wildcards, input: optional(prefix=input.prefix, statistics=input.statistics),
        trained=lambda wildcards, input: trained_option(
            [config["search"]["edits"]] * len(input.trained), input.trained
        ),
        options=lambda wildcards: RUN.evaluation_options(
            wildcards.lm,
            wildcards.editor,
            edits=config["search"]["edits"],
            sets=config["search"]["sets"],
            **trial(wildcards),
        ),
    message:
        "Search: evaluate {wildcards.editor} on {wildcards.lm}, trial {wildcards.trial}"


rule search_table:
    input:
        lambda wildcards: expand(
            "<results>/search/{lm}/{editor}_{trial}.parquet",
            trial=range(len(RUN.trials(wildcards.editor))),
            allow_missing=True,
        ),
    output:
        "<results>/search/{lm}_{editor}.csv",
    log:
        "<logs>/search/{lm}_{editor}.log",
    benchmark:
        "<benchmarks>/search/{lm}_{editor}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("search-table"),
    message:
        "List the trials of {wildcards.editor} on {wildcards.lm}"
    shell:
        "malmen search-table --evaluations {input} --out {output} 2> >(tee {log} >&2)"
