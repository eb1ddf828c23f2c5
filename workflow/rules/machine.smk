# Whether the machine can hold the paper's language models, by estimate: shown by a dry run, and
# checked before anything runs. Other scales fit everywhere, and are spared the time it takes.
import subprocess


def needs_estimate():
    """Tell whether any language model is large enough to ask."""
    return any(entry_of(lm).published for lm in RUN.lms)


def estimate():
    """What a run takes, and an exit status that says whether the machine is large enough."""
    command = [sys.executable, "-m", "malmen", "estimate", "--configuration", "-"]
    return subprocess.run(
        command, cwd=workflow.basedir, input=json.dumps(config), stdout=subprocess.PIPE, text=True
    )


if workflow.output_settings.dryrun and needs_estimate():
    print(estimate().stdout)


onstart:
    if config["machine"] == "check" and needs_estimate():
        made = estimate()
        if made.returncode:
            found = made.stdout.splitlines() or ["the estimate failed, as said above"]
            print("malmen: error:", found[-1], file=sys.stderr)
            sys.exit(2)
