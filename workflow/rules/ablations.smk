# Ablations of MALMEN on one language model: the same commands with one setting changed.


use rule train as ablation_train with:
    input:
        weights=weights,
        rows="<results>/rows/{lm}/train.jsonl",
        prefix="<results>/prefix/{lm}/train.safetensors",
        validation_rows="<results>/rows/{lm}/validation.jsonl",
        validation_prefix="<results>/prefix/{lm}/validation.safetensors",
        init=variant_warm_start,
        moments=lambda wildcards: moments_of(variant_warm_start(wildcards)),
    output:
        editor="<results>/ablations/{lm}/{variant}_{edits}.safetensors",
        moments="<results>/ablations/{lm}/{variant}_{edits}.adam.safetensors",
        metadata="<results>/ablations/{lm}/{variant}_{edits}.json",
        losses="<results>/ablations/{lm}/{variant}_{edits}.csv",
    log:
        "<logs>/ablations/train_{lm}_{variant}_{edits}.log",
    benchmark:
        "<benchmarks>/ablations/train_{lm}_{variant}_{edits}.jsonl"
    params:
        editor=lambda wildcards: RUN.variant_editor(wildcards.variant),
        init=lambda wildcards, input: optional(init=input.init, moments=input.moments),
        options=lambda wildcards: RUN.training_options(
            wildcards.lm,
            RUN.variant_editor(wildcards.variant),
            stage=RUN.stages(wildcards.lm)[int(wildcards.edits)],
            **RUN.variant_changes(wildcards.variant),
        ),
        code=lambda wildcards: code("train", RUN.variant_editor(wildcards.variant), lm=wildcards.lm),
    message:
        "Ablation: meta-train {wildcards.variant} on {wildcards.lm} at {wildcards.edits} edits"


use rule evaluate as ablation_evaluate with:
    input:
        weights=weights,
        rows="<results>/rows/{lm}/evaluation.jsonl",
        prefix="<results>/prefix/{lm}/evaluation.safetensors",
        statistics=[],
        trained=lambda wildcards: RUN.variant_files(wildcards.variant).values(),
    output:
        "<results>/ablations/{lm}/{variant}.parquet",
    log:
        "<logs>/ablations/evaluate_{lm}_{variant}.log",
    benchmark:
        "<benchmarks>/ablations/evaluate_{lm}_{variant}.jsonl"
    params:
        editor=lambda wildcards: RUN.variant_editor(wildcards.variant),
        files=lambda wildcards, input: optional(prefix=input.prefix),
        trained=lambda wildcards, input: trained_option(
            RUN.variant_files(wildcards.variant), input.trained
        ),
        options=lambda wildcards: RUN.evaluation_options(
            wildcards.lm,
            RUN.variant_editor(wildcards.variant),
            edits=config["ablations"]["edits"],
            sets=RUN.settings(wildcards.lm)["sets"],
            **RUN.variant_changes(wildcards.variant),
        ),
        code=lambda wildcards: code(
            "evaluate", RUN.variant_editor(wildcards.variant), lm=wildcards.lm
        ),
    message:
        "Ablation: evaluate {wildcards.variant} on {wildcards.lm}"
