"""Run the command line with `python -m malmen`."""

from malmen.cli import main

if __name__ == "__main__":
    main()
