"""Whether two recipes compute the same, and in what they differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mvkit.training.recipe import TrainRecipe

#: Keys that say nothing of what is computed.
_WORDS = ("name", "source", "notes", "checkpoint")


def science(recipe: TrainRecipe) -> dict[str, Any]:
    """Return what decides the numbers of a run, as JSON values."""
    return {key: value for key, value in recipe.model_dump(mode="json").items() if key not in _WORDS}


def science_digest(recipe: TrainRecipe) -> str:
    """Return the sha256 (hexadecimal) of what a recipe computes.

    Name, source, notes and the rhythm of checkpoints do not count; device,
    precision and versions are recorded beside it.
    """
    text = json.dumps(science(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_text(recipe: TrainRecipe) -> str:
    """Return the whole resolved recipe as JSON text, for checkpoints."""
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True)


def differences(before: Mapping[str, Any], now: TrainRecipe) -> list[str]:
    """Return what was changed, a line each: ``train.epochs: 10 before, 20 now``.

    Parameters
    ----------
    before
        An older recipe as JSON values.
    now
        The recipe of today.
    """
    old = dict(_flat({key: value for key, value in before.items() if key not in _WORDS}))
    new = dict(_flat(science(now)))
    keys = [*new, *(key for key in old if key not in new)]
    return [
        f"{key}: {_shown(old, key)} before, {_shown(new, key)} now"
        for key in keys
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


_ABSENT = object()


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for position, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}[{position}]")
    else:
        yield prefix, value
