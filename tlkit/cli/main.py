"""The command line: a door. It reads words, calls one function of the library, prints, and turns errors into exit codes.

The only room that imports click. Importing this module registers every command.
"""

from __future__ import annotations

from tlkit.cli import data, finetune, lists, runs
from tlkit.cli.group import main

__all__ = ["data", "finetune", "lists", "main", "runs"]
