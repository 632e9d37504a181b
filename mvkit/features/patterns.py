"""Which layers a user means: exact names, globs and regular expressions over a model's layer names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from mvkit.errors import UsageError
from mvkit.naming import unknown_name

REGEX_PREFIX = "re:"
# A dot before the bracket makes it a glob's class: `features.[0-3]`.
_CALL = re.compile(r"(?P<base>.*[^.])\[(?P<call>\d+)\]")


@dataclass(frozen=True)
class WantedLayer:
    """One layer to record.

    Parameters
    ----------
    name
        Name of the layer as the model lists it.
    call
        Which call of the layer within one forward pass (from 0); None for all of them.
    part
        Which part of a tuple or dict output; None for all of them.
    is_named
        Whether it was asked for by name. A layer that only a glob or regular expression brought in is left
        out if it turns out to have nothing to record.
    """

    name: str
    call: int | None = None
    part: str | None = None
    is_named: bool = field(default=True, compare=False)


def match_layers(patterns: str | Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that patterns mean, in the order of ``names`` and without duplicates.

    For names that are at hand, such as those of a feature set; see :func:`wanted_layers` for the patterns.

    Raises
    ------
    UsageError
        If a pattern matches nothing or is not a valid regular expression.
    """
    return tuple(dict.fromkeys(layer.name for layer in wanted_layers(patterns, names)))


def wanted_layers(patterns: str | Sequence[str], names: Iterable[str]) -> tuple[WantedLayer, ...]:
    """Resolve patterns to layers, in the model's order and without duplicates.

    A pattern is an exact name, a glob (``features.*``; ``*`` also crosses dots, ``?`` is one character,
    ``[ab]`` one of several) or a regular expression after ``re:`` that matches the whole name. An exact name
    or glob may end with ``[k]`` for the k-th call of a layer that runs several times in one pass, and with
    ``:part`` for one entry of a tuple or dict output.

    Parameters
    ----------
    patterns
        One pattern or several.
    names
        Layer names of the model, in its order.

    Raises
    ------
    UsageError
        If a pattern matches nothing (the message suggests a name and lists the valid ones), is empty, or is
        not a valid regular expression.
    """
    ordered = list(names)
    texts = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not texts:
        raise UsageError("no layers asked for: give at least one name or pattern")
    found: list[WantedLayer] = []
    for text in texts:
        matches = _match_one(text, ordered)
        if not matches:
            raise unknown_name("layer", text, ordered)
        found.extend(matches)
    # Named ones first: of two equal entries a dict keeps the first.
    distinct = dict.fromkeys(sorted(found, key=lambda layer: not layer.is_named))
    position = {name: index for index, name in enumerate(ordered)}
    return tuple(sorted(distinct, key=lambda layer: position[layer.name]))


def _match_one(pattern: str, names: Sequence[str]) -> list[WantedLayer]:
    if pattern in names:
        # First, since a name may itself hold ':' or '[' ("decoder:VISp").
        return [WantedLayer(pattern)]
    if pattern.startswith(REGEX_PREFIX):
        expression = _compile(pattern)
        return [WantedLayer(name, is_named=False) for name in names if expression.fullmatch(name)]
    readings = [reading for reading in _readings(pattern) if reading != WantedLayer(pattern)]
    for reading in readings:
        if reading.name in names:
            # `relu[0]` means the first call of `relu`, although a glob would read it as "relu0".
            return [reading]
    for reading in [WantedLayer(pattern), *readings]:
        found = [
            replace(reading, name=name, is_named=False) for name in names if fnmatchcase(name, reading.name)
        ]
        if found:
            return found
    return []


def _readings(pattern: str) -> Iterator[WantedLayer]:
    """Split ``base[call]:part`` in every way that is possible, the longest base first."""
    pieces = pattern.split(":")
    for n_pieces in range(len(pieces), 0, -1):
        base, part = ":".join(pieces[:n_pieces]), ":".join(pieces[n_pieces:]) or None
        indexed = _CALL.fullmatch(base)
        if indexed is not None:
            yield WantedLayer(indexed["base"], int(indexed["call"]), part)
        yield WantedLayer(base, None, part)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.removeprefix(REGEX_PREFIX))
    except re.error as error:
        raise UsageError(f"layer pattern '{pattern}' is not a valid regular expression: {error}") from error
