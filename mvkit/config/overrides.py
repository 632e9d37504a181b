"""``--set key=value``: changes to a recipe from the command line."""

from __future__ import annotations

from mvkit.config.problems import parts_of, written
from mvkit.config.strict_yaml import KeyPath, parse_scalar
from mvkit.errors import RecipeError


def apply_override(document: dict[str, object], override: str) -> KeyPath:
    """Change a recipe that was read.

    Parameters
    ----------
    document
        The recipe as plain values; changed in place. Groups that it leaves out are made.
    override
        ``group.key=value`` or ``list[0].key=value``; the value is read as YAML 1.2.

    Returns
    -------
    KeyPath
        Path of the key that was set.

    Raises
    ------
    RecipeError
        The override is no assignment, goes through a value, or names an item that a list does not have.
    """
    text, equals, value = override.partition("=")
    path = parts_of(text)
    if not equals or not all(path):
        raise RecipeError(f"--set {override}: write it as key=value, for instance n_splits=5")
    place: object = document
    for depth, part in enumerate(path[:-1]):
        place = _enter(place, part, path[:depth], override)
    _assign(place, path, parse_scalar(value), override)
    return path


def _enter(place: object, part: str, outer: KeyPath, override: str) -> object:
    if isinstance(place, dict):
        # A group given as null (`schedule:` with nothing after it) is as good as one left out.
        if place.get(part) is None:
            place[part] = {}
        return place[part]
    if isinstance(place, list):
        return place[_position(place, part, outer, override)]
    raise _is_a_value(outer, override)


def _assign(place: object, path: KeyPath, value: object, override: str) -> None:
    if isinstance(place, dict):
        place[path[-1]] = value
    elif isinstance(place, list):
        place[_position(place, path[-1], path[:-1], override)] = value
    else:
        raise _is_a_value(path[:-1], override)


def _position(place: list[object], part: str, outer: KeyPath, override: str) -> int:
    if part.isdigit() and int(part) < len(place):
        return int(part)
    raise RecipeError(
        f"--set {override}: '{written(outer)}' is a list of {len(place)} items; "
        f"write {written(outer)}[0] for the first, or give the whole list: {written(outer)}=[...]"
    )


def _is_a_value(outer: KeyPath, override: str) -> RecipeError:
    return RecipeError(f"--set {override}: '{written(outer)}' is a value, not a group of keys")
