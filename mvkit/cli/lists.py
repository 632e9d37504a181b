"""Options that may be repeated or hold several values."""

from __future__ import annotations

from collections.abc import Sequence


def split_commas(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Flatten ``["a,b", "c"]`` to ``("a", "b", "c")``; None stays None (option not given).

    Regular expressions (``re:...``) are kept whole, since commas mean something in them.
    """
    if values is None:
        return None
    parts = [part for value in values for part in ([value] if value.startswith("re:") else value.split(","))]
    return tuple(part.strip() for part in parts if part.strip()) or None
