"""Entry point: builds the command tree and turns errors into exit codes."""

from __future__ import annotations

import gc
import logging
import os
import platform
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from mvkit.cli import cache, cite, extract, fetch, plot, prep, recipe, report, score, train
from mvkit.cli import list as listing
from mvkit.cli.console import (
    Command,
    Group,
    argument_name,
    flush,
    help_epilog,
    home_path,
    note,
    open_streams,
    option_value,
    parameter_choices,
    parameter_type,
    print_json,
)
from mvkit.errors import (
    MvkitError,
    UsageError,
    command_line,
    describe_exception,
    exception_location,
    suggest,
    without_credentials,
)
from mvkit.files import describe_error, write_text

_INTERRUPTED = 130
#: How torch, numpy and BLAS say that memory ran out, where they do not raise MemoryError.
_NO_MEMORY = re.compile("can't allocate memory|out of memory|Unable to allocate")
#: A SIGINT for every Ctrl-C of this process.
_interrupts: list[int] = []

#: Options that many look for -> what does it.
_SUCCESSORS = {
    "--list-layers": "list the layers of a network: mvkit list layers MODEL",
    "--reader": "session files need no AllenSDK and no option: leave it out",
    "--cache-info": "show what is cached: mvkit cache info",
    "--cache-prune": "remove what is cached: mvkit cache prune RULE",
    "--scheduler": "name the cluster with --dask ADDRESS",
    "--backend": "fits run here, or on a cluster with --dask ADDRESS",
    "--merge": "give the same command without --shard",
}

#: What wrong words on the command line raise: a class of click, or of the click inside newer Typers.
_CommandLineError: Any = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


class _Root(Group):
    """The commands in the order in which one needs them."""

    sections: ClassVar = {
        "Get things": ("fetch", "list", "recipe"),
        "Networks": ("prep", "train", "extract"),
        "Answers": ("score", "plot", "report", "cite"),
        "Housekeeping": ("cache",),
    }


app = typer.Typer(
    name="mvkit",
    cls=_Root,
    help="Models of mouse visual cortex: fetch data, train networks, extract features, score predictivity.",
    epilog=help_epilog(
        "mvkit list models",
        "mvkit score gabor pixels --dataset simulated --recipe quick",
        "mvkit COMMAND --help",
        learn_more="docs/index.md: first steps, how-to guides, concepts, reference",
    ),
    no_args_is_help=True,
    # Rich help pages would cost 0.15 s of the 0.3 s in which help must answer.
    rich_markup_mode=None,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.add_typer(fetch.app, name="fetch", short_help="Download checkpoints and recordings.")
app.add_typer(listing.app, name="list", short_help="List models, layers, recipes, datasets.")
app.add_typer(recipe.app, name="recipe", short_help="Show, copy and check recipes.")
app.command("prep", cls=Command, epilog=prep.EPILOG, short_help="Write images as fast-loading beton files.")(
    prep.command
)
app.command("train", cls=train.TrainCommand, epilog=train.EPILOG, short_help="Train a network by a recipe.")(
    train.command
)
app.command(
    "extract", cls=Command, epilog=extract.EPILOG, short_help="Write features of any layers to a file."
)(extract.command)
app.command("score", cls=Command, epilog=score.EPILOG, short_help="Score how well layers predict neurons.")(
    score.command
)
app.command("report", cls=Command, epilog=report.EPILOG, short_help="Write saved scores as one HTML page.")(
    report.command
)
app.add_typer(plot.app, name="plot", epilog=plot.EPILOG, short_help="Draw figures fit for a journal.")
app.add_typer(cache.app, name="cache", short_help="Show and prune what is cached of earlier runs.")
app.command("cite", cls=Command, epilog=cite.EPILOG, short_help="Print what to cite, as BibTeX.")(
    cite.command
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from mvkit import __version__
        from mvkit.cli.console import print_line

        print_line(f"mvkit {__version__} (Python {platform.python_version()}, {sys.platform})")
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
    # What imports make lives as long as the process: Python would look through it for garbage 500 times.
    gc.set_threshold(10_000)
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding does not know is escaped, whoever prints it, and never an error.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # It says where it keeps its fonts if there is no home directory.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if _is_under_torchrun():
        # Ctrl-C ends it in silence until training listens: torchrun sends it to every process.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    code = run(sys.argv[1:])
    if not all([flush(sys.stdout), flush(sys.stderr)]):
        code = code or 1
    # Whatever Python still tidies up, Ctrl-C now ends in silence.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if (distributed := sys.modules.get("mvkit.distributed")) is not None:
        distributed.exit_process(code)
    # What is left goes with the process: Python would search it for garbage for another .8 s after torch.
    gc.freeze()
    sys.exit(code)


@command_line()
def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; never lets a known error become a traceback.

    Parameters
    ----------
    arguments
        Words after ``mvkit``.
    """
    as_json = "--json" in arguments
    try:
        code = _call_app(arguments)
        sys.stdout.flush()
    except MvkitError as error:
        return _report(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        note("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`mvkit ... | head`); say nothing more to it.
        return 1
    except OSError as error:
        is_output = not error.filename and not flush(sys.stdout)
        text = f"{'standard output: ' if is_output else ''}{describe_error(error)}"
        return _report(MvkitError(text), as_json=as_json)
    except _CommandLineError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            # A group without a command: its page of help.
            error.show()
            return int(error.exit_code)
        return _report(UsageError(_explain(error)), as_json=as_json)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the last resort
        if isinstance(error.__context__, BrokenPipeError):
            # ... which Typer has noticed first.
            return 1
        return _report(error, as_json=as_json, message=_describe_unexpected(error, arguments))
    if code == _INTERRUPTED and not _is_under_torchrun():
        note("interrupted")
    return int(code or 0)


def _call_app(arguments: list[str]) -> Any:
    """Run a command; after Ctrl-C every error counts as its consequence."""
    try:
        return app(arguments, prog_name=_program_name(), standalone_mode=False, obj=tuple(arguments))
    except Exception:
        # HDF5 and others return from Python in the middle of their work with errors of their own.
        if _interrupts:
            raise KeyboardInterrupt from None
        raise


def _interrupt(number: int, frame: object) -> None:
    _interrupts.append(number)
    # Objects of HDF5 that are torn down in the middle of their work complain of it.
    sys.unraisablehook = lambda unraisable: None
    sys.excepthook = lambda *unused: None
    raise KeyboardInterrupt


def _program_name() -> str:
    """Return how mvkit was started: ``mvkit``, or ``python -m mvkit``."""
    program = Path(sys.argv[0])
    return "python -m mvkit" if (program.parent.name, program.name) == ("mvkit", "__main__.py") else "mvkit"


def _explain(error: Any) -> str:
    """Return what is wrong with a command line, and what to type, of an error of click's."""
    kind, context, parameter = type(error).__name__, error.ctx, getattr(error, "param", None)
    command = context.command_path if context is not None else "mvkit"
    usage = "" if context is None else context.get_usage().removeprefix("Usage: ")
    parameters = [] if context is None else context.command.get_params(context)
    if kind == "NoSuchOption":
        names = [name for one in parameters if one.param_type_name == "option" for name in one.opts]
        if (successor := _SUCCESSORS.get(error.option_name)) is not None:
            return f"{command} has no option {error.option_name}\n{successor}"
        close = suggest(error.option_name, names, cutoff=0.75)
        return f"{command} has no option {error.option_name}{close}\nall options: {command} --help"
    if kind == "BadOptionUsage":
        option = next(
            (one for one in parameters if error.option_name in (*one.opts, *one.secondary_opts)), None
        )
        if option is None or option.is_flag:
            return f"{error.option_name} takes no value"
        number = "a value" if option.nargs == 1 else f"{option.nargs} values"
        return f"{error.option_name} needs {number}: {error.option_name} {option_value(option)}"
    if kind == "MissingParameter" and parameter is not None:
        is_argument = parameter.param_type_name == "argument"
        missing = argument_name(parameter) if is_argument else parameter.opts[-1]
        return f"{command} needs {missing}\nusage: {usage}"
    if kind == "BadParameter" and parameter is not None:
        return _explain_value(error, parameter)
    if (
        words := re.search(r"unexpected extra arguments? ?(?:\(s\) )?\((.*)\)", error.format_message())
    ) is not None:
        return f"unexpected {words[1]!r}\nusage: {usage}"
    return str(error.format_message())


def _explain_value(error: Any, parameter: Any) -> str:
    """Return what is wrong with the value of an option: ``--splits ten: give a whole number, 1 or more``."""
    is_argument = parameter.param_type_name == "argument"
    name = argument_name(parameter) if is_argument else max(parameter.opts, key=len)
    value = _refused_value(error)
    subject = f"{name} {value}" if value else name
    if choices := parameter_choices(parameter):
        return f"{subject}: give {', '.join(choices[:-1])} or {choices[-1]}{suggest(value, choices)}"
    number = parameter_type(parameter)
    if number is None:
        return f"{subject}: {error.message}"
    article, noun = ("a ", "whole number" if number is int else "number")
    if parameter.nargs > 1:
        article, noun = f"{parameter.nargs} ", f"{noun}s"
    kind = getattr(parameter, "type", None)
    least, most = (getattr(parameter, end, getattr(kind, end, None)) for end in ("min", "max"))
    if least is not None and most is not None:
        return f"{subject}: give {article}{noun} from {least:,} to {most:,}"
    return f"{subject}: give {article}{noun}{'' if least is None else f', {least} or more'}"


def _refused_value(error: Any) -> str:
    """Return the word that an option could not take; "" if the error does not hold it."""
    if (problems := getattr(error.__cause__, "errors", None)) is not None:
        # Typer reads values with pydantic.
        return str(problems()[0]["input"])
    match = re.match(r"(?:Value )?'?(.*?)'? is not ", error.message)
    return match[1] if match else ""


def _is_under_torchrun() -> bool:
    return "TORCHELASTIC_ERROR_FILE" in os.environ


def _report(error: BaseException, *, as_json: bool, message: str = "") -> int:
    """Show an error and return the exit code; ``message``: what to show, if not the error's own."""
    message = message or str(error)
    if _is_debugging():
        note("".join(traceback.format_exception(error)))
    if _is_under_torchrun():
        # Torchrun, or the mvkit that started it, shows the error of the process that failed first.
        from mvkit.distributed import record_failure

        record_failure(error, message)
    else:
        note(f"error: {message}")
        if as_json:
            # Standard output may be what failed.
            with suppress(OSError):
                print_json({"error": {"type": type(error).__name__, "message": message}})
    return error.exit_code if isinstance(error, MvkitError) else 1


def _is_debugging() -> bool:
    return os.environ.get("MVKIT_DEBUG", "") not in ("", "0")


def _describe_unexpected(error: BaseException, arguments: Sequence[str]) -> str:
    """Return what to say of an exception that nobody expected, and save its traceback."""
    text = describe_exception(error)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return (
            f"memory ran out ({text})\n"
            "fewer --jobs, --layers or --areas, or a smaller --batch-size, need less"
        )
    if isinstance(error, Warning):
        return f"{text}\nhere Python takes warnings for errors: run mvkit without PYTHONWARNINGS=error"
    path = _save_traceback(error, arguments)
    if where := exception_location(error):
        return f"{where}{text} (in code that is not mvkit's)\ntraceback: {path}"
    return (
        f"{text} (a fault of mvkit)\nplease report it on the Issues page of mvkit's repository, with {path}"
    )


def _save_traceback(error: BaseException, arguments: Sequence[str]) -> str:
    """Write a report of an exception into the home, or else the temporary folder; return its path."""
    from mvkit.machine import installed_versions
    from mvkit.paths import crashes_dir

    versions = installed_versions("numpy", "torch", "h5py", "pandas", "scipy", "numba")
    # Neither variables of the environment nor values of locals: both may hold passwords.
    report = without_credentials(
        f"mvkit {shlex.join(arguments)}\n{platform.platform()}\n"
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )
    # "--home DIR" and "--home=DIR".
    homes = [word for two in pairwise(arguments) for word in two[1:] if two[0] == "--home"]
    homes += [word.removeprefix("--home=") for word in arguments if word.startswith("--home=")]
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{os.getpid()}.txt"
    folders: tuple[Callable[[], Path], ...] = (
        lambda: crashes_dir(home_path("".join(homes[:1]))),
        lambda: Path(tempfile.gettempdir()),
    )
    for folder in folders:
        with suppress(Exception):
            path = folder() / f"mvkit-crash-{name}"
            write_text(path, report)
            return str(path)
    note(report)
    return "the traceback above"
