"""Errors of code that is not mvkit's: one or two lines with file and line, no traceback."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

from mvkit.errors import MvkitError, UserCodeError

_LONGEST = 300
_MVKIT = Path(__file__).parent.parent.parent
_INSTALLED = tuple(Path(sysconfig.get_paths()[kind]) for kind in ("stdlib", "purelib", "platlib"))


class UserCode:
    """Turns what code inside the ``with`` block raises into a :class:`~mvkit.errors.UserCodeError`.

    Errors of mvkit's own, interruptions by the keyboard, and exceptions that are not errors pass.

    Parameters
    ----------
    what
        Whose code it is and what it was doing.
    advice
        What to try; a second line.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        self._what = what
        self._advice = advice

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        # A script without a `__main__` guard ends itself when it is imported.
        if isinstance(error, MvkitError) or not isinstance(error, Exception | SystemExit):
            return
        text = " ".join(str(error).split())
        shortened = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        message = f"{self._what}: {_place(error)}{type(error).__name__}{f': {shortened}' if text else ''}"
        raise UserCodeError("\n".join(filter(None, (message, self._advice)))) from error


def _place(error: BaseException) -> str:
    """Return ``FILE:LINE: `` of the last step in the user's own code, or in a library if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    steps = [step for step in traceback.extract_tb(error.__traceback__) if Path(step.filename).is_file()]
    outside = [step for step in steps if not Path(step.filename).is_relative_to(_MVKIT)]
    own = [
        step
        for step in outside
        if not any(Path(step.filename).is_relative_to(folder) for folder in _INSTALLED)
    ]
    chosen = own or outside
    return f"{chosen[-1].filename}:{chosen[-1].lineno}: " if chosen else ""
