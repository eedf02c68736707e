"""`python -m pipelines`: the same command line as `ddt`."""

from pipelines.commands.cli import main

if __name__ == "__main__":
    main()
