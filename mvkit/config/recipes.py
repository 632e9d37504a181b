"""From a recipe file and ``--set`` overrides to a validated, frozen model.

Every problem is reported at once, each with file, line and key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mvkit.config.strict_yaml import KeyPath, parse_scalar, read_yaml
from mvkit.errors import RecipeError
from mvkit.naming import suggest

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(model: type[Model], source: str | None, overrides: Sequence[str] = ()) -> Model:
    """Read a recipe and apply overrides.

    Parameters
    ----------
    model
        Pydantic model that the recipe must satisfy (frozen, ``extra="forbid"``).
    source
        Path of a recipe, name of a packaged one (``score/paper``), or None for the defaults.
    overrides
        ``"key.sub=value"`` items as given to ``--set``; values are read as YAML 1.2.

    Raises
    ------
    RecipeError
        With one line for every problem found.
    """
    document: dict[str, object] = {}
    lines: dict[KeyPath, int] = {}
    name = source or "defaults"
    if source is not None:
        path = find_recipe(source)
        name = source if Path(source).exists() else f"recipes/{source}.yaml"
        document, lines = read_yaml(path)
    origin: dict[KeyPath, str] = {}
    for override in overrides:
        key = _apply(document, override)
        origin[key] = f"--set {override}"
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise RecipeError("\n".join(_describe(error, model, name, lines, origin))) from error


def find_recipe(source: str) -> Path:
    """Return the file of a recipe given by path or by packaged name.

    Raises
    ------
    RecipeError
        Neither a file nor a packaged recipe; lists the packaged names.
    """
    path = Path(source)
    if path.is_file():
        return path
    packaged = packaged_recipes()
    if source.removesuffix(".yaml") in packaged:
        return packaged[source.removesuffix(".yaml")]
    valid = ", ".join(packaged) or "none"
    hint = suggest(source, packaged)
    raise RecipeError(f"recipe '{source}' is neither a file nor a packaged recipe{hint}\npackaged: {valid}")


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes that come with mvkit, by name (``score/paper``)."""
    package = Path(str(resources.files("mvkit")))
    # An editable install has them beside the package, a wheel inside it.
    folder = next(
        (place for place in (package / "recipes", package.parent / "recipes") if place.is_dir()), None
    )
    if folder is None:
        return {}
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def digest(model: BaseModel) -> str:
    """Return the sha256 (hex) of a resolved recipe; equal settings give equal digests."""
    text = json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _apply(document: dict[str, object], override: str) -> KeyPath:
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise RecipeError(f"--set {override}: write it as key=value, for instance n_splits=5")
    place = document
    for part in path[:-1]:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: '{part}' is a value, not a group of keys")
        place = inner
    place[path[-1]] = parse_scalar(text)
    return path


def _describe(
    error: ValidationError,
    model: type[BaseModel],
    name: str,
    lines: Mapping[KeyPath, int],
    origin: Mapping[KeyPath, str],
) -> list[str]:
    messages = []
    for problem in error.errors():
        key = tuple(str(part) for part in problem["loc"])
        line = f":{lines[key]}" if key in lines else ""
        place = origin.get(key, f"{name}{line}")
        text = problem["msg"]
        if problem["type"] == "extra_forbidden":
            text = f"unknown key{suggest(key[-1], _keys_beside(model, key))}"
        elif problem["type"] != "missing":
            text = f"{text}, got {problem['input']!r}"
        messages.append(f"{place}: {'.'.join(key)}: {text}" if key else f"{place}: {text}")
    return messages


def _keys_beside(model: type[BaseModel], key: KeyPath) -> list[str]:
    place: type[BaseModel] = model
    for part in key[:-1]:
        field = place.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        place = inner
    return list(place.model_fields)
