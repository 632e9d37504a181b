"""Names a user types: suggestions for misspelt ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mvkit.errors import UsageError


def suggest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or ``""``.

    Parameters
    ----------
    name
        What the user typed.
    valid
        Names that would have been accepted.
    """
    folded = {candidate.lower(): candidate for candidate in valid}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return f"; did you mean '{folded[close[0]]}'?" if close else ""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UsageError:
    """Build the error for a name outside a closed list.

    The message holds the kind, the name, a suggestion and every valid value.
    """
    names = list(valid)
    return UsageError(f"unknown {kind} '{name}'{suggest(name, names)}\nvalid: {', '.join(names)}")
