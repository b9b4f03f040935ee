"""The command line: each command reads its options, calls one function of the library, and prints the result.

This is the only room that imports click. Importing this module registers every command.
"""

from __future__ import annotations

from tlkit.cli import data, env, finetune, lists, push, runs
from tlkit.cli.group import main

__all__ = ["data", "env", "finetune", "lists", "main", "push", "runs"]
