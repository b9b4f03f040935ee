"""The command line: each command reads its options, calls one function of the library, and prints the result.

This is the only room that imports click. Importing this module registers every command.
"""

from __future__ import annotations

from tlkit.cli import batch, check, data, env, finetune, labelling, lists, push, runs, slices
from tlkit.cli.group import main

__all__ = ["batch", "check", "data", "env", "finetune", "labelling", "lists", "main", "push", "runs", "slices"]
