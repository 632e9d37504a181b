"""What is wrong with a recipe, in words: file, line, key, and the name that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mvkit.config.annotations import SchemaPlace, place_of
from mvkit.config.strict_yaml import KeyPath
from mvkit.naming import suggest

#: What pydantic adds to some messages about the input; the input itself is shown instead.
_TAIL = re.compile(r"(, got .*|, unable to parse .*)$")

#: Characters of an input that a message shows.
_LONGEST = 80


class KeyedError(ValueError):
    """Raised by a model's own validator: several problems, each with its key.

    Parameters
    ----------
    problems
        (key as written in messages, e.g. ``schedule.milestones``; what is wrong with it).
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in problems))
        self.problems = tuple(problems)


class Whereabouts:
    """Where a key was given: a line of the file, or an override on the command line.

    Parameters
    ----------
    name
        The recipe in messages.
    lines
        Line of every key of the file.
    overrides
        Text of the override that gave a key.
    """

    def __init__(self, name: str, lines: Mapping[KeyPath, int], overrides: Mapping[KeyPath, str]) -> None:
        self._name = name
        self._lines = lines
        self._overrides = overrides

    def __call__(self, key: KeyPath) -> str:
        """Return the place of a key, or of the innermost group around it that was given."""
        for length in range(len(key), 0, -1):
            group = key[:length]
            if group in self._overrides:
                return self._overrides[group]
            # An override made or changed part of the group; of an outer one, only if the file has it not.
            beneath = [text for given, text in self._overrides.items() if given[:length] == group]
            if beneath and (length == len(key) or group not in self._lines):
                return beneath[-1]
            if group in self._lines:
                return f"{self._name}:{self._lines[group]}"
        return self._name


def describe(error: ValidationError, model: type[BaseModel], where: Whereabouts) -> list[str]:
    """Return one line for every problem that a validation found, in the order of the model's fields."""
    lines = []
    for details in _causes(error.errors()):
        lines += [
            f"{where(key)}: {written(key)}: {text}" if key else f"{where(key)}: {text}"
            for key, text in _problems(details, model)
        ]
    return lines


def written(key: KeyPath) -> str:
    """Return a key path as it is written: ``views.views[0].steps[1].name``."""
    text = ""
    for part in key:
        text += f"[{part}]" if part.isdigit() else f".{part}" if text else part
    return text


def parts_of(key: str) -> KeyPath:
    """Return the path that a written key means; ``a[0].b`` and ``a.0.b`` are the same."""
    return tuple(re.sub(r"\[(\d+)\]", r".\1", key.strip()).split("."))


def _causes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that a list is too short because an item of it, reported by itself, is invalid."""
    places = [tuple(details["loc"]) for details in errors]
    return [
        details
        for details, place in zip(errors, places, strict=True)
        if details["type"] != "too_short"
        or not any(other[: len(place)] == place for other in places if other != place)
    ]


def _problems(details: ErrorDetails, model: type[BaseModel]) -> Iterator[tuple[KeyPath, str]]:
    context: Mapping[str, Any] = details.get("ctx", {})
    own = context.get("error")
    place = place_of(model, details["loc"])
    if isinstance(own, KeyedError):
        yield from ((place.key + parts_of(key), text) for key, text in own.problems)
    elif details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        yield _wrong_tag(details["type"], context, place)
    else:
        yield place.key, _text(details, place)


def _wrong_tag(kind: str, context: Mapping[str, Any], place: SchemaPlace) -> tuple[KeyPath, str]:
    key = (*place.key, str(context["discriminator"]).strip("'"))
    valid = f"valid: {', '.join(place.tags)}"
    if kind == "union_tag_not_found":
        return key, f"Field required; {valid}"
    tag = str(context["tag"])
    return key, f"unknown name '{tag}'{suggest(tag, place.tags)}; {valid}"


def _text(details: ErrorDetails, place: SchemaPlace) -> str:
    if details["type"] == "extra_forbidden":
        return f"unknown key{suggest(place.key[-1], place.siblings)}"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "missing":
        return message
    given = details["input"]
    hint = (
        suggest(given, place.choices) if details["type"] == "literal_error" and isinstance(given, str) else ""
    )
    return f"{_TAIL.sub('', message)}, got {_shortened(given)}{hint}"


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
