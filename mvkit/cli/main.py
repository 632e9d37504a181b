"""Entry point: builds the command tree and turns errors into exit codes."""

from __future__ import annotations

import os
import re
import signal
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mvkit.cli import cache, extract, fetch, plot, prep, score, train
from mvkit.cli import list as listing
from mvkit.cli.console import Command, note, print_json
from mvkit.errors import MvkitError, suggest

_INTERRUPTED = 130

#: How Typer refuses a value that is none of an option's choices.
_CHOICE = re.compile("'([^']*)' is not one of (.*?)[.]?$")

#: What wrong words on the command line raise: a class of click, or of the click inside newer Typers.
_CommandLineError: Any = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


class _InOrderOfUse(TyperGroup):
    """The commands in the order in which one needs them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of the commands."""
        order = ("fetch", "list", "prep", "train", "extract", "score", "plot", "cache")
        return sorted(self.commands, key=order.index)


app = typer.Typer(
    name="mvkit",
    cls=_InOrderOfUse,
    help="Models of mouse visual cortex: fetch data, train networks, extract features, score predictivity.",
    no_args_is_help=True,
    # Rich help pages would cost 0.15 s of the 0.3 s in which help must answer.
    rich_markup_mode=None,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.add_typer(fetch.app, name="fetch", short_help="Download checkpoints and recordings.")
app.add_typer(listing.app, name="list", short_help="List models, layers, recipes, datasets.")
app.command("prep", cls=Command, short_help="Write images as fast-loading beton files.")(prep.command)
app.command("train", cls=train.TrainCommand, short_help="Train a network by a recipe.")(train.command)
app.command("extract", cls=Command, short_help="Write features of any layers to a file.")(extract.command)
app.command("score", cls=Command, epilog=score.EPILOG, short_help="Score how well layers predict neurons.")(
    score.command
)
app.add_typer(plot.app, name="plot", epilog=plot.EPILOG, short_help="Draw figures fit for a journal.")
app.add_typer(cache.app, name="cache", short_help="Show and prune what is cached of earlier runs.")


def _print_version(wanted: bool) -> None:
    if wanted:
        from mvkit import __version__
        from mvkit.cli.console import print_line

        print_line(f"mvkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with 0, 1 (failure), 2 (usage) or 130 (interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding does not know is escaped, whoever prints it, and never an error.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if _is_under_torchrun():
        # Ctrl-C ends it in silence until training listens: torchrun sends it to every process.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = run(sys.argv[1:])
    if (distributed := sys.modules.get("mvkit.distributed")) is not None:
        distributed.exit_process(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; never lets a known error become a traceback.

    Parameters
    ----------
    arguments
        Words after ``mvkit``.
    """
    as_json = "--json" in arguments
    try:
        code = app(arguments, prog_name="mvkit", standalone_mode=False, obj=tuple(arguments))
    except MvkitError as error:
        return _report(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        note("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`mvkit ... | head`); say nothing more to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _report(MvkitError(_describe(error)), as_json=as_json)
    except _CommandLineError as error:
        if (choice := _CHOICE.search(error.message)) is not None:
            error.message = choice[0].rstrip(".") + suggest(choice[1], re.findall("'([^']+)'", choice[2]))
        error.show()
        if as_json:
            print_json({"error": {"type": "UsageError", "message": error.format_message()}})
        return int(error.exit_code)
    except Exception as error:
        if not _is_under_torchrun():
            raise
        return _leave_to_torchrun(error)
    if code == _INTERRUPTED and not _is_under_torchrun():
        note("interrupted")
    return int(code or 0)


def _is_under_torchrun() -> bool:
    return "TORCHELASTIC_ERROR_FILE" in os.environ


def _leave_to_torchrun(error: Exception) -> int:
    """Let torchrun, or the mvkit that started it, show the error of the process that failed first."""
    from mvkit.distributed import record_failure

    record_failure(error)
    return error.exit_code if isinstance(error, MvkitError) else 1


def _report(error: MvkitError, *, as_json: bool) -> int:
    if _is_under_torchrun():
        return _leave_to_torchrun(error)
    note(f"error: {error}")
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": str(error)}})
    return error.exit_code


def _describe(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"
