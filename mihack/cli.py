"""The command line: parse, call, print; the one place where an error becomes an exit code.

A command's module is imported only when that command runs, so that ``--help``, ``--version``,
``list`` and completion start as fast as Python and click allow.
"""

from __future__ import annotations

import os
import sys

import click

from mihack import __version__
from mihack.errors import MihackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# name -> one line for --help; the command is mihack.commands.<name>:<name> (or the name below)
COMMANDS = {
    "list": "List the problems, filtered.",
    "show": "Show one problem: what it is, who has tried, where to start.",
    "search": "Search cards and glossary, best match first.",
    "suggest": "Suggest problems that suit your team, and say why.",
    "new": "Make a research repo for a problem.",
    "explain": "Explain a term, or list the glossary.",
    "resources": "List demos, tutorials, papers and tools.",
    "stats": "Count problems, by area, rating and status.",
    "site": "Build the catalogue as a web site, or look at it.",
    "doctor": "Check Python, packages, GPU, memory and network.",
    "card": "Write a card of your own, or set up your editor for it.",
    "check": "Name every fault of a catalogue folder.",
    "schema": "Print the JSON Schema of a card, for editors.",
    "completion": "Print a shell's completion script.",
}
DONE, FIXABLE, USAGE = 0, 1, 2
COMPLETE = "_MIHACK_COMPLETE"  # set by a shell's completion script


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports each one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Command names, in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``mihack.commands.<name>``; None for a name that is no command."""
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        command: click.Command = getattr(import_module(f"mihack.commands.{cmd_name}"), f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command list for --help, from the table above: nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with close names for one that is unknown."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0][:40], COMMANDS, n=2, cutoff=0.5)
            hint = f" Did you mean {' or '.join(close)}?" if close else " `mihack --help` lists all."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: mihack list --difficulty A, then mihack show 3.1, then mihack new 3.1",
)
@click.version_option(__version__, prog_name="mihack", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (anywhere on the line).")
def group(debug: bool) -> None:
    """Open problems in mechanistic interpretability, and a repo that already runs for each."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the user can fix it, 2 wrong usage."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; a message for every error goes to stderr."""
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    if os.environ.get(COMPLETE, "").startswith("powershell"):
        from mihack.powershell import register

        register()
    try:
        result = group.main(arguments, prog_name="mihack", complete_var=COMPLETE, standalone_mode=False)
        sys.stdout.flush()  # here, where a full disk or a reader that has gone is still handled
        return result if isinstance(result, int) else DONE
    except click.ClickException as error:
        error.show()
        return USAGE if isinstance(error, click.UsageError) else FIXABLE
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        return FIXABLE
    except BrokenPipeError:
        # the reader (head, less) has gone: no message, and none from Python at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FIXABLE
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """One sentence on what went wrong, one on what to do."""
    from mihack.terminal import clean, one_line  # a message may quote a card or a file name

    if isinstance(error, MihackError):
        click.echo(f"Error: {clean(error.message)}", err=True)
        if error.hint:
            click.echo(clean(error.hint), err=True)
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        click.echo(f"Error: {one_line(error.strerror + where)}", err=True)
        return FIXABLE
    failure = one_line(f"{type(error).__name__}: {error}")
    click.echo(f"Error: mihack itself failed, which it should not: {failure}", err=True)
    click.echo("Please report it with what the same command prints with --debug at its end.", err=True)
    return FIXABLE
