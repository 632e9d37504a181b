"""Entry point: builds the command tree and turns errors into exit codes."""

from __future__ import annotations

import os
import signal
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from mvkit.cli import extract, fetch, prep, score, train
from mvkit.cli.console import note, print_json
from mvkit.errors import MvkitError

_INTERRUPTED = 130

#: What wrong words on the command line raise: a class of click, or of the click inside newer Typers.
_CommandLineError: Any = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

app = typer.Typer(
    name="mvkit",
    help="Models of mouse visual cortex: fetch data, train networks, extract features, score predictivity.",
    no_args_is_help=True,
    # Rich help pages would cost 0.15 s of the 0.3 s in which help must answer.
    rich_markup_mode=None,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(fetch.app, name="fetch")
app.command("prep", short_help="Write images as fast-loading beton files.")(prep.command)
app.command("train", cls=train.TrainCommand, short_help="Train a network by a recipe.")(train.command)
app.command("extract", short_help="Write features of any layers to a file.")(extract.command)
app.command("score", short_help="Score how well layers predict neurons.")(score.command)


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
