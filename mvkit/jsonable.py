"""Values as JSON knows them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from mvkit.errors import printable


def plain(value: object) -> Any:
    r"""Turn a value into what JSON knows: numpy scalars and arrays, tuples, mappings; NaN becomes None.

    Anything else, such as a path, becomes its text; bytes of names that are no UTF-8 become ``\xNN``. Needs
    no numpy itself.
    """
    if hasattr(value, "tolist"):
        # A numpy scalar gives a number, an array nested lists.
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {printable(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return printable(str(value))


def shortened(value: object, longest: int) -> str:
    """Return the text of a value, cut to ``longest`` characters with ``...`` at the end."""
    text = str(plain(value))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a JSON document; equal contents give equal digests."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
