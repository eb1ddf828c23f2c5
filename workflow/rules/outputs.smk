# Outputs: answers before and after editing, tables, figures and the summary.


rule answers:
    input:
        weights=weights,
        trained=lambda wildcards: RUN.editor_files(wildcards.lm, MALMEN.name)[
            config["answers"]["edits"]
        ],
        rows="<results>/rows/{lm}/evaluation.jsonl",
    output:
        "<results>/answers/{lm}.json",
    log:
        "<logs>/answers/{lm}.log",
    benchmark:
        "<benchmarks>/answers/{lm}.jsonl"
    wildcard_constraints:
        lm=one_of(RUN.answering),
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=gpu,
    params:
        options=options({"edits": config["answers"]["edits"]}),
        code=lambda wildcards: code("answers", MALMEN.name, lm=wildcards.lm),
    message:
        "Ask {wildcards.lm} before and after editing"
    shell:
        "malmen answers --lm {wildcards.lm} --weights {input.weights} --trained {input.trained}"
        " --rows {input.rows} {params.options} --out {output} 2> >(tee {log} >&2)"


rule settings:
    output:
        "<results>/settings.json",
    log:
        "<logs>/settings.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=100,
        runtime=5,
    params:
        settings=json.dumps(RUN.resolved_settings(), indent=2),
    message:
        "Write the settings down"
    shell:
        "printf '%s\\n' {params.settings:q} > {output} 2> {log}"


rule table:
    input:
        unpack(table_inputs),
        outside="malmen/tables/outside_numbers.yaml",
        published="malmen/experiment/published_settings.yaml",
    output:
        shown("<results>/tables/table_{number}", TABLE_FORMATS, "table", number="{number}"),
    log:
        "<logs>/table_{number}.log",
    benchmark:
        "<benchmarks>/table_{number}.jsonl"
    wildcard_constraints:
        number=one_of(RUN.tables),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        out_dir=lambda wildcards, output: Path(output[0]).parent,
        files=lambda wildcards, input: optional(
            **{name: input.get(name) for name in table_inputs(wildcards)}
        ),
        editors=RUN.foreign_option(),
        code=[code("table", lm=lm) for lm in RUN.lms],
    message:
        "Make table {wildcards.number}"
    shell:
        "malmen table --number {wildcards.number} {params.files} {params.editors}"
        " --out-dir {params.out_dir} 2> >(tee {log} >&2)"


rule claims:
    input:
        **RUN.preparations(),
        claims="workflow/claims.yaml",
        evaluations=RUN.evaluations(RUN.lms),
        ablations=RUN.ablations() if RUN.ablated in RUN.lms else [],
        memory=RUN.memory_files(),
    output:
        shown("<results>/claims", ["md", "csv"], "claims"),
    log:
        "<logs>/claims.log",
    benchmark:
        "<benchmarks>/claims.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        out_dir=lambda wildcards, output: Path(output[0]).parent,
        files=lambda wildcards, input: optional(**dict(input.items())),
        editors=RUN.foreign_option(),
        code=[code("claims", lm=lm) for lm in RUN.lms],
    message:
        "Evaluate the claims"
    shell:
        "malmen claims {params.files} {params.editors} --out-dir {params.out_dir}"
        " 2> >(tee {log} >&2)"


rule verify:
    input:
        RUN.table_files(),
        RUN.figure_files(),
        claims="<results>/claims.csv",
    log:
        "<logs>/verify.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        reference=f"results/reference/{config['scale']}",
        results=lambda wildcards, input: Path(input.claims).parent,
    message:
        "Compare with the reference results"
    shell:
        "malmen verify --reference {params.reference} --results {params.results}"
        " 2> >(tee {log} >&2)"


rule memory:
    input:
        weights=RUN.weights(RUN.measured),
        rows=f"<results>/rows/{RUN.measured}/train.jsonl",
        prefix=f"<results>/prefix/{RUN.measured}/train.safetensors",
    output:
        measurements="<results>/memory.csv",
        metadata="<results>/memory.json",
    log:
        "<logs>/memory.log",
    benchmark:
        "<benchmarks>/memory.jsonl"
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=1000 + 2 * config["memory"]["limit_mb"],
        runtime=30,
    params:
        lm=RUN.measured,
        options=RUN.memory_options(),
        code=code("memory", lm=RUN.measured),
    message:
        "Measure the memory of meta-training and editing"
    shell:
        "malmen memory --lm {params.lm} --weights {input.weights} --rows {input.rows}"
        " --prefix {input.prefix} {params.options} --out {output.measurements}"
        " 2> >(tee {log} >&2)"


rule figure:
    input:
        unpack(figure_inputs),
    output:
        shown("<results>/figures/figure_{name}", FIGURE_FORMATS, "figure", name="{name}"),
    log:
        "<logs>/figure_{name}.log",
    benchmark:
        "<benchmarks>/figure_{name}.jsonl"
    wildcard_constraints:
        name=one_of(RUN.figures),
    priority: first_figure_first
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        out_dir=lambda wildcards, output: Path(output[0]).parent,
        files=lambda wildcards, input: options(
            {name: input[name] for name in figure_inputs(wildcards)}
        ),
        editors=RUN.foreign_option(),
        code=lambda wildcards: code("figure", lm=RUN.curves.get(wildcards.name)),
    message:
        "Draw figure {wildcards.name}"
    shell:
        "malmen figure --name {wildcards.name} {params.files} {params.editors}"
        " --out-dir {params.out_dir} 2> >(tee {log} >&2)"


rule diagram:
    input:
        "malmen/lm/catalogue.yaml",
    output:
        shown("<results>/figures/figure_{name}", FIGURE_FORMATS, "figure", name="{name}"),
    log:
        "<logs>/figure_{name}.log",
    benchmark:
        "<benchmarks>/figure_{name}.jsonl"
    wildcard_constraints:
        name=one_of(DIAGRAMS),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        out_dir=lambda wildcards, output: Path(output[0]).parent,
        code=code("diagram"),
    message:
        "Draw figure {wildcards.name}"
    shell:
        "malmen diagram --name {wildcards.name} --out-dir {params.out_dir} 2> >(tee {log} >&2)"


rule report:
    input:
        template="malmen/reporting/templates/report.html.j2",
        tables=[file for file in RUN.table_files() if file.endswith(".md")],
        figures=[file for file in RUN.figure_files() if file.endswith(".png")],
        claims="<results>/claims.csv",
        answers=expand("<results>/answers/{lm}.json", lm=RUN.answering),
        models=RUN.made_models(),
        runs=RUN.run_files(),
    output:
        shown("<results>/report", ["html"], "page"),
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        scale=config["scale"],
        benchmarks=lambda wildcards, output: Path(output[0]).parent / "benchmarks",
        files=lambda wildcards, input: options(
            {key: files for key, files in input.items() if files and key != "template"}
        ),
        code=code("report"),
    message:
        "Put everything on one page"
    shell:
        "malmen report --scale {params.scale} {params.files} --benchmarks {params.benchmarks}"
        " --out {output} 2> >(tee {log} >&2)"


rule summary:
    input:
        template="malmen/reporting/templates/summary.md.j2",
        tables=RUN.table_files(),
        figures=RUN.figure_files(),
        answers=expand("<results>/answers/{lm}.json", lm=RUN.answering),
        models=RUN.made_models(),
        runs=RUN.run_files(),
        claims="<results>/claims.md",
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
            {key: files for key, files in input.items() if files and key != "template"}
        ),
        code=code("summary"),
    message:
        "Sum up"
    shell:
        "malmen summary {params.options} --out {output} 2> >(tee {log} >&2)"
