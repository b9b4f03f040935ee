"""The `tlkit` command: the group of all commands, its help, and the printing of errors.

Exit codes: 0 success, 1 an error of `tlkit.errors`, of a disk or of memory, 2 an invalid command line, 130 interrupted
(Ctrl-C), 143 ended by SIGTERM.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import click

from tlkit import __version__
from tlkit.cli.completion import completed
from tlkit.cli.output import quiet_option, wants_json, wants_quiet
from tlkit.disk import disk_error, errno_of, is_of_tensorflow
from tlkit.errors import TlkitError, nearest
from tlkit.plan.address import redacted
from tlkit.progress import log, without_bars
from tlkit.stopping import INTERRUPTED
from tlkit.words import shown

NEWLINES = "\n\t"  # of messages that have several lines
SECTIONS = {  # of the help: the commands by what they are for; the others are listed by name
    "Commands": ("demo", "inspect", "augment", "finetune", "report", "evaluate", "explain", "export"),
    "With a model": ("predict", "serve", "check"),
}


def in_options(text: str) -> str:
    """Translate parameter names in a message of the library into options of the command line.

    The library names its parameters in backticks: `image_size` becomes --image-size, and `weights=none` becomes
    --weights none. Names that are not an option of any command stay as they are.
    """
    options = {
        one.name: max(one.opts, key=len)
        for command in main.commands.values()
        for one in command.params
        if isinstance(one, click.Option)
    }

    def translated(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name not in options:
            return match[0]
        return options[name] + (f" {value}" if value else "")

    return re.sub(r"`([a-z_]+)(?:=([^`\s]+))?`", translated, text)


class _Echo(logging.Handler):
    """Print each line of the log."""

    def emit(self, record: logging.LogRecord) -> None:
        attention = record.levelno >= logging.WARNING and wants_quiet()
        said = shown(in_options(self.format(record)), keep=NEWLINES)
        click.echo(f"attention: {said}" if attention else said, err=attention or wants_json())


class _Attention(logging.Handler):
    """Print warnings to standard error, in a command that does not show the log, such as of a damaged file."""

    def emit(self, record: logging.LogRecord) -> None:
        if not any(isinstance(one, _Echo) for one in log.handlers):
            click.echo(f"attention: {shown(in_options(self.format(record)), keep=NEWLINES)}", err=True)


@contextlib.contextmanager
def log_shown(*, lines: bool = True, is_result: bool = False) -> Iterator[None]:
    """Print what the library logs while the block runs, and let its loops draw progress bars.

    With --json it is printed to standard error; with --quiet only its warnings are, and no bar is drawn.

    lines: whether the log is printed; its warnings are in any case.
    is_result: the log is what the command is for, and is printed with --quiet too.
    """
    handler, level = _Echo() if lines else logging.NullHandler(), log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if wants_quiet() and not is_result else logging.INFO)
    log.propagate = False  # Keras or TensorFlow may add a handler to the root logger, which would print each line again
    try:
        with without_bars() if wants_quiet() or wants_json() else contextlib.nullcontext():
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = True


class _Compact(click.Command):
    """A command that hides --help from its own help text, and writes its options without a headline.

    It takes --quiet, and shells complete its names of backbones, recipes and runs.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params.append(quiet_option())
        for one in self.params:
            completed(one)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.hidden = True
        return option

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options directly after the description."""
        records = [
            record
            for one in self.get_params(ctx)
            if isinstance(one, click.Option) and (record := one.get_help_record(ctx))
        ]
        if records:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_dl(records)


class _Group(_Compact, click.Group):
    """A group that suggests the nearest command for a mistyped one, and prints errors of tlkit as one paragraph."""

    command_class = _Compact

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what most people need with a line each, by section, and the names of the rest, to fit one screen."""
        shown: set[str] = set()
        for title, names in SECTIONS.items():
            found = [(name, self.commands[name]) for name in names if name in self.commands]
            with formatter.section(title):
                formatter.write_dl([(name, one.get_short_help_str(limit=66)) for name, one in found])
            shown.update(name for name, _ in found)
        rest = [name for name in sorted(self.commands) if name not in shown]
        with formatter.section("More, each with --help of its own"):
            formatter.write_text(", ".join(rest))
        formatter.write_paragraph()
        formatter.write_text("-q, --quiet, of every command: print results and errors only")

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            close = nearest(name, self.commands)
            hint = f"Did you mean '{close}'?" if close else f"Expected one of: {', '.join(sorted(self.commands))}."
            raise click.UsageError(f"No such command '{name}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show ends no command
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        attention = _Attention(logging.WARNING)
        log.addHandler(attention)
        try:
            return super().invoke(ctx)
        except Exception as error:
            said = _sentence(error)
            if said is None:
                raise
            click.echo(f"Error: {shown(in_options(redacted(said)), keep=NEWLINES)}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        finally:
            log.removeHandler(attention)


def _sentence(error: Exception) -> str | None:
    """What to say of an error that the user can mend; None for one that is a fault of tlkit's, or click's own."""
    if isinstance(error, TlkitError):
        return str(error)
    if isinstance(error, BrokenPipeError):  # click ends quietly
        return None
    number = errno_of(error)
    if number is not None:
        return str(disk_error(error if isinstance(error, OSError) and error.errno else OSError(number, "")))
    if isinstance(error, MemoryError):
        return "Memory ran out. Close other programs, or give smaller images (`image_size`) or batches (`batch_size`)."
    if isinstance(error, OSError) or is_of_tensorflow(error):
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tlkit", hidden=True)  # so that all commands fit one screen
def main() -> None:
    """A folder of images in, a classifier you can trust and deploy out."""
