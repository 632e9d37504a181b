"""Whether two results may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError

if TYPE_CHECKING:
    from mvkit.scoring.results import Scores

_ABSENT = "(absent)"
_LONGEST = 40


def protocol_differences(first: Scores, second: Scores) -> dict[str, tuple[Any, Any]]:
    """Return field -> both values, where two protocols differ (:meth:`Scores.protocol`).

    A field that is a mapping, such as the selection of units, is compared entry by entry
    (``"selection.min_reliability"``).
    """
    left, right = _flat(first.protocol()), _flat(second.protocol())
    return {
        name: (left.get(name, _ABSENT), right.get(name, _ABSENT))
        for name in dict.fromkeys([*left, *right])
        if left.get(name, _ABSENT) != right.get(name, _ABSENT)
    }


def require_same_protocol(first: tuple[str, Scores], second: tuple[str, Scores]) -> None:
    """Refuse two named results of different protocols.

    Raises
    ------
    UsageError
        Naming every field that differs, with both values.
    """
    differences = protocol_differences(first[1], second[1])
    if differences:
        fields = "; ".join(
            f"{name}: {_shown(left)} and {_shown(right)}" for name, (left, right) in differences.items()
        )
        raise UsageError(
            f"{first[0]} and {second[0]} are of different protocols and cannot be compared: {fields}\n"
            "score them again with the same settings and recordings"
        )


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(value: Any) -> str:
    text = value if value == _ABSENT else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
