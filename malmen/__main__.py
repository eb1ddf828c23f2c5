"""Run the command line with `python -m malmen`."""

from malmen.commands.outputs import main

if __name__ == "__main__":
    main()
