"""`python -m tlkit` is `tlkit`."""

from tlkit.cli import main

main()
