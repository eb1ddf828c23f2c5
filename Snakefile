# The reproduction: facts -> language models -> editors -> per-fact results -> tables and figures.
#
#   snakemake --cores all                                        everything, at the scale "desk"
#   snakemake --cores all --configfile config/smoke.yaml         the same workflow in minutes
#   snakemake --cores all results/desk/figures/figure_04.pdf     one figure
#   snakemake --cores all search                                 the search for hyper-parameters
from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


# `<results>`, `<logs>` and `<benchmarks>` in the rules: no two scales ever share a file.
pathvars:
    results=f"results/{config['scale']}",
    logs=f"results/{config['scale']}/logs",
    benchmarks=f"results/{config['scale']}/benchmarks",


include: "workflow/rules/common.smk"
include: "workflow/rules/machine.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/editors.smk"
include: "workflow/rules/ablations.smk"
include: "workflow/rules/outputs.smk"
include: "workflow/rules/search.smk"


rule all:
    default_target: True
    input:
        RUN.table_files(),
        RUN.figure_files(),
        multiext("<results>/claims", ".md", ".csv"),
        "<results>/report.html",
        "<results>/summary.md",
