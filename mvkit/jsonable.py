"""Values as JSON knows them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: object) -> Any:
    """Turn a value into what JSON knows: numpy scalars and arrays, tuples and mappings too; NaN becomes None.

    Anything else, such as a path, becomes its text. Needs no numpy itself.
    """
    if hasattr(value, "tolist"):
        # A numpy scalar gives a number, an array nested lists.
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def shortened(value: object, longest: int) -> str:
    """Return the text of a value, cut to ``longest`` characters with ``...`` at the end."""
    text = str(plain(value))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a JSON document; equal contents give equal digests."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
