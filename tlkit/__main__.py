"""Run the command line as `python -m tlkit`."""

from tlkit.cli.main import main

main()
