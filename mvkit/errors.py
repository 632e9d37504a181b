"""Errors that mvkit raises on purpose, and their exit codes.

::

    MvkitError              exit 1   anything mvkit refuses or cannot do
    ├── UsageError          exit 2   a wrong argument: unknown model, layer, area, option value
    ├── RecipeError         exit 2   a recipe or setting that does not validate
    ├── DataError           exit 1   a neural, feature or image file that is damaged or not what it should be
    ├── CheckpointError     exit 1   weights that cannot be read or do not fit the architecture
    ├── FetchError          exit 1   a download that failed or was refused
    │   └── FetchHaltedError         ... for a reason that would stop every other download too
    ├── FitError            exit 1   a fit that could not be made at all
    ├── UserCodeError       exit 1   a network of the user's own, or a library's, that fails
    ├── WorkerError         exit 1   worker processes that died, or a cluster that cannot be used
    └── MissingPackageError exit 1   an optional package that is needed here is not installed

Messages are one or two lines: what is wrong, where, and what to do. Only the
command line catches these; library code lets them pass. Where the command line
and Python call a thing by two names, a message has the one of its reader: see
:func:`wording`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Valid values that a message lists at most.
_MOST_NAMES = 12
#: Names like one that was typed that a message lists at most, where a command lists all.
_MOST_NEAR = 4
#: Characters that a message shows of an error that is not mvkit's.
_LONGEST_ERROR = 300
#: Control characters but tabs and ends of lines: a terminal obeys some.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

#: Commands that are being carried out in this process; of all threads, some of which raise errors too.
_running_commands = 0


@contextmanager
def command_line() -> Iterator[None]:
    """Let messages name the options of the command line, for the length of a block."""
    global _running_commands
    _running_commands += 1
    try:
        yield
    finally:
        _running_commands -= 1


def wording(command: str, python: str) -> str:
    """Return the words of a message for its reader.

    Parameters
    ----------
    command
        For somebody who typed a command: ``--weights random``.
    python
        For somebody who called a function: ``weights="random"``.
    """
    return command if _running_commands else python


def option_name(parameter: str) -> str:
    """Return ``--image-ids`` for somebody who typed a command, and the parameter's name for others."""
    return wording(f"--{parameter.replace('_', '-')}", parameter)


def printable(text: str) -> str:
    r"""Return text that every stream and file can take: bytes of names that are no UTF-8 become ``\xNN``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def without_credentials(text: str) -> str:
    """Return an address, or a text with addresses, without user names and passwords."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", text)


def describe_exception(error: BaseException) -> str:
    """Return ``TypeError: what it says`` in a few hundred characters of one line, without passwords."""
    try:
        text = without_credentials(" ".join(escape_control(str(error)).split()))
    except Exception:  # noqa: BLE001 - code of a stranger's exception
        text = ""
    text = text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
    return f"{type(error).__name__}{f': {text}' if text else ''}"


def exception_location(error: BaseException, *, in_libraries: bool = False) -> str:
    """Return ``FILE:LINE: `` of the last step of an exception in code that is not mvkit's, "" for none.

    Parameters
    ----------
    error
        As it was raised.
    in_libraries
        Take a step in an installed package or Python's own where there is none in code of the user's.
    """
    import sysconfig
    import traceback

    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    steps = [step for step in traceback.extract_tb(error.__traceback__) if Path(step.filename).is_file()]
    outside = [step for step in steps if not Path(step.filename).is_relative_to(Path(__file__).parent)]
    installed = [sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib")]
    own = [
        step
        for step in outside
        if not any(Path(step.filename).is_relative_to(folder) for folder in installed)
    ]
    chosen = own or (outside if in_libraries else [])
    return f"{chosen[-1].filename}:{chosen[-1].lineno}: " if chosen else ""


def escape_control(text: str) -> str:
    r"""Return text whose control characters, which a terminal would obey, are written as ``\x1b``."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class MvkitError(Exception):
    """Base of every error that mvkit raises deliberately.

    Control characters, and bytes of file names that are no UTF-8, are escaped in messages.
    """

    exit_code = 1

    def __init__(self, *arguments: object) -> None:
        super().__init__(
            *(escape_control(printable(one)) if isinstance(one, str) else one for one in arguments)
        )


class UsageError(MvkitError):
    """An argument names something that does not exist or is out of range."""

    exit_code = 2


class RecipeError(MvkitError):
    """A recipe or setting does not validate."""

    exit_code = 2


class DataError(MvkitError):
    """A neural, feature or image file is damaged or not what it should be."""


class CheckpointError(MvkitError):
    """Weights cannot be read or do not fit the architecture."""


class FetchError(MvkitError):
    """A download failed, or was refused before it began."""


class FetchHaltedError(FetchError):
    """A download failed for a reason that would stop every other one too: no network, or a full disk."""


class FitError(MvkitError):
    """A fit could not be made at all."""


class UserCodeError(MvkitError):
    """Code that is not mvkit's failed: a network of the user's own, or a library's."""


class WorkerError(MvkitError):
    """Worker processes died, or a cluster cannot be used."""


class MissingPackageError(MvkitError):
    """An optional package that is needed here is not installed; the message says how to install it."""


def suggest(name: str, valid: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or ``""``.

    Parameters
    ----------
    name
        What the user typed.
    valid
        Names that would have been accepted.
    cutoff
        Likeness, 0 to 1, from which a name is suggested.
    """
    folded = {candidate.lower(): candidate for candidate in valid}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=cutoff)
    return f"; did you mean '{folded[close[0]]}'?" if close else ""


def unknown_name(kind: str, name: str, valid: Iterable[str], *, command: str = "") -> UsageError:
    """Build the error for a name outside a closed list.

    The message holds the kind, the name, a suggestion and the valid values, see :func:`valid_names`.
    """
    names = list(valid)
    return UsageError(f"unknown {kind} '{name}'{suggest(name, names)}\n{valid_names(name, names, command)}")


def valid_names(name: str, valid: Iterable[str], command: str = "") -> str:
    """Return a line with the valid values; of more than a dozen, the nearest ones and what lists all.

    Parameters
    ----------
    name
        What the user typed.
    valid
        Names that would have been accepted.
    command
        What lists all of them (``mvkit list models``).
    """
    names = list(valid)
    if len(names) <= _MOST_NAMES:
        return f"valid: {', '.join(names) or 'none'}"
    if command:
        near = difflib.get_close_matches(name, names, n=_MOST_NEAR, cutoff=0.5)
        return f"near: {', '.join(near)}; all: {command}" if len(near) > 1 else f"all: {command}"
    nearest = difflib.get_close_matches(name, names, n=_MOST_NAMES, cutoff=0.4)
    listed = list(dict.fromkeys([*nearest, *names]))[:_MOST_NAMES]
    return f"valid: {', '.join(listed)} and {len(names) - len(listed)} more"
