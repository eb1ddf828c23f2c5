# Data: facts, downloads, rows made from either, frozen prefixes, statistics of keys.


rule facts:
    output:
        "<results>/facts.jsonl",
    log:
        "<logs>/facts.log",
    benchmark:
        "<benchmarks>/facts.jsonl"
    priority: 1
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("facts"),
    message:
        "Collect facts from GeoNames"
    shell:
        "malmen facts --out {output} 2> >(tee {log} >&2)"


rule rows:
    input:
        weights=weights,
        facts="<results>/facts.jsonl",
    output:
        train="<results>/rows/{lm}/train.jsonl",
        validation="<results>/rows/{lm}/validation.jsonl",
        evaluation="<results>/rows/{lm}/evaluation.jsonl",
    log:
        "<logs>/rows/{lm}.log",
    benchmark:
        "<benchmarks>/rows/{lm}.jsonl"
    wildcard_constraints:
        lm=one_of(lm for lm in RUN.lms if lm not in RUN.imported),
    priority: first_figure_first
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=gpu,
    params:
        out_dir=lambda wildcards, output: Path(output.train).parent,
        options=lambda wildcards: options(
            {**RUN.settings(wildcards.lm)["rows"], "seed": config["seed"]}
        ),
        code=lambda wildcards: code("rows", lm=wildcards.lm),
    message:
        "Make rows for {wildcards.lm}; what it knows already serves as unrelated prompts"
    shell:
        "malmen rows --lm {wildcards.lm} --weights {input.weights} --facts {input.facts}"
        " {params.options} --out-dir {params.out_dir} 2> >(tee {log} >&2)"


rule download:
    output:
        file="<resources>/data/{file}",
        record="<resources>/data/{file}.source.json",
    log:
        "<logs>/download/{file}.log",
    benchmark:
        "<benchmarks>/download/{file}.jsonl"
    wildcard_constraints:
        file=one_of(map(re.escape, sources())),
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        downloads="resources/downloads",  # what is there already is not downloaded again
        out_dir=lambda wildcards, output: Path(output.file).parent,
        code=code("download"),
    message:
        "Download {wildcards.file}"
    shell:
        "malmen download --downloads {params.downloads} --out-dir {params.out_dir}"
        " {wildcards.file} 2> >(tee {log} >&2)"


rule import_rows:
    input:
        unpack(source_files),
        exclude=lambda wildcards: RUN.earlier_splits(wildcards.lm, wildcards.split),
    output:
        "<results>/rows/{lm}/{split}.jsonl",
    log:
        "<logs>/rows/{lm}_{split}.log",
    benchmark:
        "<benchmarks>/rows/{lm}_{split}.jsonl"
    wildcard_constraints:
        lm=one_of(RUN.imported),
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        files=lambda wildcards, input: options(
            {key: value for key, value in input.items() if value}
        ),
        options=lambda wildcards: options(
            {"rows": RUN.settings(wildcards.lm)["rows"][wildcards.split], "seed": config["seed"]}
        ),
        code=code("import-rows"),
    message:
        "Import {wildcards.split} rows for {wildcards.lm}"
    shell:
        "malmen import-rows --lm {wildcards.lm} {params.files} {params.options} --out {output}"
        " 2> >(tee {log} >&2)"


rule prefix:
    input:
        weights=weights,
        rows=expand("<results>/rows/{{lm}}/{split}.jsonl", split=SPLITS),
    output:
        expand("<results>/prefix/{{lm}}/{split}.safetensors", split=SPLITS),
    log:
        "<logs>/prefix/{lm}.log",
    benchmark:
        "<benchmarks>/prefix/{lm}.jsonl"
    priority: first_figure_first
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=gpu,
    params:
        out_dir=lambda wildcards, output: Path(output[0]).parent,
        code=lambda wildcards: code("prefix", lm=wildcards.lm),
    message:
        "Run {wildcards.lm} up to its first edited layer on all rows"
    shell:
        "malmen prefix --lm {wildcards.lm} --weights {input.weights} --rows {input.rows}"
        " --out-dir {params.out_dir} 2> >(tee {log} >&2)"


rule key_statistics:
    input:
        unpack(statistics_texts),
        weights=weights,
    output:
        statistics="<results>/statistics/{lm}.safetensors",
        metadata="<results>/statistics/{lm}.json",
    log:
        "<logs>/statistics/{lm}.log",
    benchmark:
        "<benchmarks>/statistics/{lm}.jsonl"
    wildcard_constraints:
        lm=one_of(lm for lm in RUN.lms if RUN.weighing(lm)),
    priority: first_figure_first
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=gpu,
    params:
        options=lambda wildcards, input: RUN.statistics_options(
            wildcards.lm, {key: input[key] for key in statistics_texts(wildcards)}
        ),
        code=lambda wildcards: code("key-statistics", lm=wildcards.lm),
    message:
        "Average the keys of {wildcards.lm} over texts"
    shell:
        "malmen key-statistics --lm {wildcards.lm} --weights {input.weights} {params.options}"
        " --out {output.statistics} 2> >(tee {log} >&2)"
