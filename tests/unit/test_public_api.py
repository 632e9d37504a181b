"""The public names: each is documented with its parameters, what it returns, and the shapes of arrays."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

import mvkit

PACKAGES = ("mvkit", "mvkit.neural", "mvkit.features", "mvkit.models", "mvkit.scoring")

#: Heads of numpydoc's sections.
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)

#: Words of a type that is an array, and what a description of one has: its shape.
ARRAY = re.compile(r"NDArray|ArrayLike")
SHAPE = re.compile(r"\(\w[\w ]*,|\(n_\w+\)|\bshape\b|\b(one|row|entry) per\b", re.IGNORECASE)


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yield every public function and class once, by name."""
    known = set()
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and id(thing) not in known:
                known.add(id(thing))
                yield f"{package}.{name}", thing


OBJECTS = dict(public_objects())


def sections(thing: Any) -> dict[str, str]:
    """Return the sections of a docstring, "" for what stands before the first."""
    text = inspect.getdoc(thing) or ""
    parts = SECTION.split(text)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented(text: str) -> dict[str, str]:
    """Return name -> description of the entries of a section."""
    entries: dict[str, str] = {}
    heads: list[str] = []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            heads = [head.strip().lstrip("*") for head in line.partition(" : ")[0].split(",")]
            entries |= dict.fromkeys(heads, line.partition(" : ")[2])
        else:
            entries |= {head: f"{entries[head]}\n{line}" for head in heads}
    return entries


def methods(thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods that a class of mvkit defines itself."""
    for name, member in vars(thing).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


FUNCTIONS = {
    **{name: thing for name, thing in OBJECTS.items() if inspect.isfunction(thing)},
    **{
        f"{name}.{method}": function
        for name, thing in OBJECTS.items()
        if inspect.isclass(thing)
        for method, function in methods(thing)
    },
}
DATACLASSES = {name: thing for name, thing in OBJECTS.items() if dataclasses.is_dataclass(thing)}


def test_all_names_of_the_packages_exist() -> None:
    assert set(mvkit.__all__) <= set(dir(mvkit))
    assert {"score", "train", "extract", "load_model", "open_dataset"} <= set(mvkit.__all__)
    assert len(FUNCTIONS) > 40 and len(DATACLASSES) > 10


@pytest.mark.parametrize("name", OBJECTS)
def test_it_has_a_docstring_with_one_line_first(name: str) -> None:
    first, _, rest = (inspect.getdoc(OBJECTS[name]) or "").partition("\n")
    assert first.endswith((".", ":")), f"{name}: {first!r}"
    assert not rest or rest.startswith("\n"), f"{name}: the first line is not a paragraph"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_and_results_are_documented(name: str) -> None:
    function = FUNCTIONS[name]
    found = sections(function)
    entries = documented(found.get("Parameters", ""))
    parameters = [one for one in inspect.signature(function).parameters if one not in ("self", "cls")]
    # A method of one argument may name it in its sentence.
    text = f"{found['']} {found.get('Raises', '')}"
    missing = [one for one in parameters if one not in entries and f"``{one}``" not in text]
    assert not missing, f"{name}: not documented: {', '.join(missing)}"
    unknown = [one for one in entries if one not in parameters]
    assert not unknown, f"{name}: documented, but no parameter: {', '.join(unknown)}"
    if inspect.signature(function).return_annotation not in ("None", None):
        says = "Returns" in found or "Yields" in found or re.search(r"\b([Rr]eturn|[Yy]ield)", found[""])
        is_named = "Path" in str(inspect.signature(function).return_annotation)
        assert says or is_named, f"{name}: does not say what it returns"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_have_shapes(name: str) -> None:
    function = FUNCTIONS[name]
    found = sections(function)
    entries = documented(found.get("Parameters", ""))
    for parameter, entry in entries.items():
        annotation = str(inspect.signature(function).parameters[parameter].annotation)
        if ARRAY.search(annotation):
            assert SHAPE.search(entry), f"{name}: {parameter}: no shape in {entry!r}"
    if ARRAY.search(str(inspect.signature(function).return_annotation)):
        text = found.get("Returns", "") + found.get("Yields", "") + found[""]
        assert SHAPE.search(text), f"{name}: no shape of what it returns"


@pytest.mark.parametrize("name", DATACLASSES)
def test_fields_are_documented(name: str) -> None:
    thing = DATACLASSES[name]
    found = sections(thing)
    entries = documented(found.get("Attributes", "") + "\n" + found.get("Parameters", ""))
    for field in dataclasses.fields(thing):
        if field.name.startswith("_"):
            continue
        assert field.name in entries, f"{name}: not documented: {field.name}"
        if ARRAY.search(str(field.type)):
            assert SHAPE.search(entries[field.name]), f"{name}: {field.name}: no shape"
