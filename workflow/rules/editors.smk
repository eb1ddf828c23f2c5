# Editors: meta-training up the grid of counts, then evaluation on disjoint edit sets.


rule train:
    input:
        weights=weights,
        rows="<results>/rows/{lm}/train.jsonl",
        prefix="<results>/prefix/{lm}/train.safetensors",
        validation_rows="<results>/rows/{lm}/validation.jsonl",
        validation_prefix="<results>/prefix/{lm}/validation.safetensors",
        init=warm_start,
        moments=lambda wildcards: moments_of(warm_start(wildcards)),
    output:
        editor="<results>/editors/{lm}/{editor}_{edits}.safetensors",
        moments="<results>/editors/{lm}/{editor}_{edits}.adam.safetensors",
        metadata="<results>/editors/{lm}/{editor}_{edits}.json",
        losses="<results>/editors/{lm}/{editor}_{edits}.csv",
    log:
        "<logs>/train/{lm}_{editor}_{edits}.log",
    benchmark:
        "<benchmarks>/train/{lm}_{editor}_{edits}.jsonl"
    wildcard_constraints:
        editor=one_of(RUN.trained),
    priority: lambda wildcards: 2 * first_figure_first(wildcards)  # a chain: before evaluation
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpu,
    params:
        editor=lambda wildcards: RUN.references[wildcards.editor],
        init=lambda wildcards, input: optional(init=input.init, moments=input.moments),
        options=lambda wildcards: RUN.training_options(
            wildcards.lm,
            wildcards.editor,
            stage=RUN.stages(wildcards.lm)[int(wildcards.edits)],
        ),
        code=lambda wildcards: code("train", wildcards.editor, lm=wildcards.lm),
    message:
        "Meta-train {wildcards.editor} on {wildcards.lm} at {wildcards.edits} edits"
    shell:
        "malmen train --editor {params.editor} --lm {wildcards.lm} --weights {input.weights}"
        " --rows {input.rows} --prefix {input.prefix}"
        " --validation-rows {input.validation_rows} --validation-prefix {input.validation_prefix}"
        " {params.init} {params.options} --out {output.editor} 2> >(tee {log} >&2)"


rule evaluate:
    input:
        weights=weights,
        rows="<results>/rows/{lm}/evaluation.jsonl",
        prefix=prefix_file("evaluation"),
        statistics=statistics_file,
        trained=lambda wildcards: RUN.editor_files(wildcards.lm, wildcards.editor).values(),
    output:
        "<results>/evaluations/{lm}/{editor}.parquet",
    log:
        "<logs>/evaluate/{lm}_{editor}.log",
    benchmark:
        "<benchmarks>/evaluate/{lm}_{editor}.jsonl"
    priority: first_figure_first
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpu,
    params:
        editor=lambda wildcards: RUN.references[wildcards.editor],
        trained=lambda wildcards, input: trained_option(
            RUN.editor_files(wildcards.lm, wildcards.editor), input.trained
        ),
        files=lambda wildcards, input, output: optional(
            prefix=input.prefix,
            statistics=input.statistics,
            so_far=Path(output[0]).parents[1],
        ),
        options=lambda wildcards: RUN.evaluation_options(
            wildcards.lm,
            wildcards.editor,
            edits=RUN.settings(wildcards.lm)["edits"],
            sets=RUN.settings(wildcards.lm)["sets"],
        ),
        code=lambda wildcards: code("evaluate", wildcards.editor, lm=wildcards.lm),
    message:
        "Evaluate {wildcards.editor} on {wildcards.lm}"
    shell:
        "malmen evaluate --editor {params.editor} --lm {wildcards.lm}"
        " --weights {input.weights} --rows {input.rows} {params.files}"
        " {params.trained} {params.options} --out {output} 2> >(tee {log} >&2)"


use rule evaluate as evaluate_one_trained with:
    input:
        weights=weights,
        rows="<results>/rows/{lm}/evaluation.jsonl",
        prefix=prefix_file("evaluation"),
        statistics=[],
        trained=lambda wildcards: RUN.editor_files(wildcards.lm, wildcards.editor)[
            int(wildcards.edits)
        ],
    output:
        "<results>/evaluations/{lm}/{editor}_at_{edits}.parquet",
    log:
        "<logs>/evaluate/{lm}_{editor}_at_{edits}.log",
    benchmark:
        "<benchmarks>/evaluate/{lm}_{editor}_at_{edits}.jsonl"
    params:
        editor=lambda wildcards: RUN.references[wildcards.editor],
        trained=lambda wildcards, input: (
            f"{trained_option([wildcards.edits], [input.trained])} --trained-alone"
        ),
        files=lambda wildcards, input, output: optional(
            prefix=input.prefix, so_far=Path(output[0]).parents[1]
        ),
        options=lambda wildcards: RUN.evaluation_options(
            wildcards.lm,
            wildcards.editor,
            edits=RUN.settings(wildcards.lm)["edits"],
            sets=RUN.settings(wildcards.lm)["sets"],
        ),
        code=lambda wildcards: code("evaluate", wildcards.editor, lm=wildcards.lm),
    message:
        "Evaluate {wildcards.editor}, trained at {wildcards.edits} edits alone, on {wildcards.lm}"
