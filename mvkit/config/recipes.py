"""From a recipe file and ``--set`` overrides to a validated, frozen model.

Every problem is reported at once, each with file, line and key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mvkit.config.overrides import apply_override
from mvkit.config.problems import Whereabouts, describe
from mvkit.config.strict_yaml import KeyPath, read_yaml
from mvkit.errors import RecipeError
from mvkit.jsonable import digest_of
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
        key = apply_override(document, override)
        origin[key] = f"--set {override}"
    try:
        # As JSON and strictly: a list is a tuple there, but the text "no" is no False and "3" no number.
        return model.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        problems = describe(error, model, Whereabouts(name, lines, origin))
        raise RecipeError("\n".join(problems)) from error


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
    return digest_of(model.model_dump(mode="json"))
