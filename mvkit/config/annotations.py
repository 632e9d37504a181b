"""From pydantic's location of an error to the key a user wrote.

Inside unions pydantic puts the chosen member into the location (``objective.
simclr.temperatur``), which nobody wrote. Following the annotations of the
model tells such parts from keys, and gives the names that would be valid.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mvkit.config.strict_yaml import KeyPath


@dataclass(frozen=True)
class SchemaPlace:
    """A place in a recipe.

    Attributes
    ----------
    key
        Path as in the file, list positions as digits.
    siblings
        Keys that are valid in the group of which this is one.
    tags
        Names among which a union at this place chooses.
    choices
        Values of a ``Literal`` at this place.
    """

    key: KeyPath
    siblings: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Slot:
    """What may stand at a place: a type, and the discriminator if it is a tagged union."""

    annotation: Any
    discriminator: str | None = None


def place_of(model: type[BaseModel], location: Sequence[str | int]) -> SchemaPlace:
    """Return the place that an error's location means.

    Parameters
    ----------
    model
        The model that was validated.
    location
        ``loc`` of a pydantic error.
    """
    slot = _Slot(model)
    key: list[str] = []
    siblings: tuple[str, ...] = ()
    for part in location:
        slot = _bare(slot)
        members = _members(slot)
        if members:
            # A part that says which member was tried; no key.
            slot = _Slot(members.get(str(part)))
            continue
        key.append(str(part))
        siblings = ()
        if _is_model(slot.annotation):
            siblings = tuple(slot.annotation.model_fields)
        slot = _inside(slot.annotation, part)
    slot = _bare(slot)
    return SchemaPlace(tuple(key), siblings, tuple(_members(slot)), _choices(slot.annotation))


def _bare(slot: _Slot) -> _Slot:
    """Strip ``Annotated`` and ``| None``, keeping the discriminator."""
    annotation, discriminator = slot.annotation, slot.discriminator
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *notes = get_args(annotation)
            for note in notes:
                if isinstance(note, FieldInfo) and isinstance(note.discriminator, str):
                    discriminator = note.discriminator
            continue
        if get_origin(annotation) in (Union, types.UnionType):
            inner = [member for member in get_args(annotation) if member is not types.NoneType]
            if len(inner) == 1:
                annotation = inner[0]
                continue
        return _Slot(annotation, discriminator)


def _members(slot: _Slot) -> dict[str, Any]:
    """Return the members of a union under the names that pydantic gives them in locations."""
    if get_origin(slot.annotation) not in (Union, types.UnionType):
        return {}
    members: dict[str, Any] = {}
    for member in get_args(slot.annotation):
        if slot.discriminator and _is_model(member):
            tag = member.model_fields[slot.discriminator].annotation
            members |= {str(value): member for value in get_args(tag)}
        elif member is not types.NoneType:
            members[getattr(member, "__name__", str(member))] = member
    return members


def _inside(annotation: Any, part: str | int) -> _Slot:
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        if field is None:
            return _Slot(None)
        return _Slot(field.annotation, field.discriminator)
    inner = get_args(annotation)
    if get_origin(annotation) is tuple and isinstance(part, int) and Ellipsis not in inner:
        return _Slot(inner[part] if part < len(inner) else None)
    if get_origin(annotation) in (tuple, list):
        return _Slot(inner[0] if inner else None)
    return _Slot(None)


def _choices(annotation: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
