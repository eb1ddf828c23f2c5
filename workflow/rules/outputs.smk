# Outputs: answers before and after editing, tables, figures and the summary.


rule answers:
    input:
        weights=weights,
        trained=lambda wildcards: editor_files(wildcards.lm, "malmen")[config["answers"]["edits"]],
        rows="<results>/rows/{lm}/evaluation.jsonl",
    output:
        "<results>/answers/{lm}.json",
    log:
        "<logs>/answers/{lm}.log",
    benchmark:
        "<benchmarks>/answers/{lm}.jsonl"
    wildcard_constraints:
        lm=one_of(ANSWERING),
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        options=options(config["answers"]),
        code=lambda wildcards: code("answers", "malmen", lm=wildcards.lm),
    message:
        "Ask {wildcards.lm} before and after editing"
    shell:
        "malmen answers --lm {wildcards.lm} --weights {input.weights} --trained {input.trained}"
        " --rows {input.rows} {params.options} --out {output} 2> >(tee {log} >&2)"


rule table:
    input:
        evaluations(*LMS),
    output:
        multiext("<results>/tables/table_{number}", *(f".{name}" for name in TABLE_FORMATS)),
    log:
        "<logs>/table_{number}.log",
    benchmark:
        "<benchmarks>/table_{number}.jsonl"
    wildcard_constraints:
        number=one_of(TABLES),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        out_dir=lambda wildcards, output: Path(output[0]).parent,
        code=code("table"),
    message:
        "Make table {wildcards.number}"
    shell:
        "malmen table --number {wildcards.number} --evaluations {input}"
        " --out-dir {params.out_dir} 2> >(tee {log} >&2)"


rule figure:
    input:
        lambda wildcards: evaluations(FIGURES[wildcards.name]),
    output:
        multiext("<results>/figures/figure_{name}", *(f".{name}" for name in FIGURE_FORMATS)),
    log:
        "<logs>/figure_{name}.log",
    benchmark:
        "<benchmarks>/figure_{name}.jsonl"
    wildcard_constraints:
        name=one_of(FIGURES),
    priority: first_figure_first
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        out_dir=lambda wildcards, output: Path(output[0]).parent,
        code=code("figure"),
    message:
        "Draw figure {wildcards.name}"
    shell:
        "malmen figure --name {wildcards.name} --evaluations {input}"
        " --out-dir {params.out_dir} 2> >(tee {log} >&2)"


rule summary:
    input:
        tables=table_files(),
        figures=figure_files(),
        answers=expand("<results>/answers/{lm}.json", lm=ANSWERING),
        checker=["<results>/lm/fact_checker"] if "fact_checker" in LMS else [],
    output:
        "<results>/summary.md",
    log:
        "<logs>/summary.log",
    benchmark:
        "<benchmarks>/summary.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        options=lambda wildcards, input: options(
            {key: files for key, files in input.items() if files}
        ),
        code=code("summary"),
    message:
        "Sum up"
    shell:
        "malmen summary {params.options} --out {output} 2> >(tee {log} >&2)"
