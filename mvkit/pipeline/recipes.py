"""Recipes of every kind as files: opened, shown with where each key comes from, copied."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from mvkit.errors import RecipeError, UsageError
from mvkit.files import check_output_path, plain, write_text
from mvkit.paths import expand
from mvkit.recipes import (
    KeyLocations,
    KeyPath,
    load_recipe,
    location_of,
    packaged_recipes,
    parse_yaml,
    read_recipe,
)

RecipeKind = Literal["training", "scoring", "prep"]

#: Folders of packaged recipes, and their kind.
_FOLDERS: Mapping[str, RecipeKind] = {"score": "scoring", "prep": "prep"}
#: Keys that every recipe of a kind needs or most of them have, and no recipe of another kind has.
_TYPICAL_KEYS: Mapping[RecipeKind, frozenset[str]] = {
    "training": frozenset({"model", "views", "objective", "optimiser", "schedule", "train", "evaluate"}),
    "prep": frozenset({"format", "short_side_px", "jpeg_quality", "page_mib", "resampling", "measured"}),
}
#: Column of comments, at most.
_COMMENT_COLUMN = 44


@dataclass(frozen=True)
class OpenedRecipe:
    """A recipe that validates, with all its keys.

    Attributes
    ----------
    name
        Its packaged name (``score/honest``), or its path as given.
    kind
        "training", "scoring" or "prep".
    path
        The file.
    document
        Every key and its value as JSON values, defaults filled in.
    locations
        Where a key was given: ``file:line``, or ``--set key=value``; keys that are not in it have defaults.
    """

    name: str
    kind: RecipeKind
    path: Path
    document: Mapping[str, Any]
    locations: KeyLocations

    def command(self, name: str) -> str:
        """Return how a recipe of this kind is used."""
        folder, _, short = name.rpartition("/")
        if folder in _FOLDERS and name in packaged_recipes():
            name = short
        if self.kind == "scoring":
            return f"mvkit score MODEL --recipe {name}"
        return f"mvkit prep {name} --images DIR" if self.kind == "prep" else f"mvkit train {name}"

    def text(self, *, locations: bool) -> str:
        """Return the recipe as YAML, which :func:`mvkit.recipes.load_recipe` reads to the same recipe.

        Parameters
        ----------
        locations
            Whether a comment after each value says where it was given.
        """
        lines = [f"# {self.name}: a {self.kind} recipe; {self.command(self.name)}"]
        for line, key in _yaml_lines(self.document):
            where = self._location(key) if key and locations else ""
            column = max(_COMMENT_COLUMN, len(line) + 2)
            lines.append(f"{line:{column}}# {where}" if where else line)
        return "\n".join(lines)

    def _location(self, key: KeyPath) -> str:
        """Return where a value was given; a default inside a group that a file gives is one all the same."""
        if key in self.locations:
            return self.locations[key]
        around = location_of(key, self.locations) or ""
        return around if around.startswith("--set") else "default"

    def to_json(self) -> dict[str, object]:
        """Return name, kind, file, values and locations as plain values."""
        return {
            "recipe": self.name,
            "kind": self.kind,
            "file": str(self.path),
            "values": dict(self.document),
            "locations": {".".join(key): where for key, where in self.locations.items()},
        }


def open_recipe(source: str, overrides: Sequence[str] = ()) -> OpenedRecipe:
    """Read and check a recipe of any kind.

    Parameters
    ----------
    source
        Path of a recipe, or name of a packaged one; ``honest`` is ``score/honest``.
    overrides
        ``"key=value"`` items as given to ``--set``.

    Raises
    ------
    RecipeError, UsageError
        There is no such recipe, or with a line for every problem in it.
    """
    name = _full_name(source)
    path, document, locations = read_recipe(name)
    kind = _kind_of(name, document)
    recipe = _load(name, kind, overrides)
    for override in overrides:
        key = tuple(override.partition("=")[0].strip().split("."))
        locations[key] = f"--set {override}"
    return OpenedRecipe(name, kind, path, _values(recipe), locations)


def copy_recipe(source: str, target: Path | None = None, *, full: bool = False) -> tuple[Path, OpenedRecipe]:
    """Write a recipe of the user's own that starts from another one.

    Parameters
    ----------
    source
        Path of a recipe, or name of a packaged one.
    target
        The file to write; None: the recipe's name in this folder.
    full
        Whether to write every key, instead of the base alone.

    Returns
    -------
    target
        The file that was written.
    recipe
        The recipe that it starts from.

    Raises
    ------
    RecipeError
        If the recipe does not exist or does not validate.
    UsageError
        If the file exists.
    """
    recipe = open_recipe(source)
    target = Path(f"{recipe.path.stem}.yaml") if target is None else expand(target)
    if target.is_dir():
        target = target / f"{recipe.path.stem}.yaml"
    if target.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{target}: a recipe's name ends in .yaml")
    if target.exists():
        raise UsageError(f"{target} exists, and is not replaced: give another name")
    check_output_path(target, overwrite=False, example="mine.yaml")
    if full:
        text = recipe.text(locations=False)
    else:
        is_packaged = recipe.name in packaged_recipes()
        base = recipe.name if is_packaged else os.path.relpath(recipe.path, target.parent)
        text = (
            f"# Starts from {recipe.name}; run it: {recipe.command(str(target))}\n"
            f"base: {_scalar(base)}\n\n"
            "# Keys given here replace those of the base, group by group, for instance\n"
            f"# {_EXAMPLES[recipe.kind]}\n"
            f"# All keys and values: mvkit recipe show {recipe.name}"
        )
    write_text(target, text + "\n")
    return target, recipe


#: A change of a recipe, as its file has it.
_EXAMPLES: Mapping[RecipeKind, str] = {
    "training": "train: {epochs: 100}",
    "scoring": "n_splits: 5",
    "prep": "short_side_px: 128",
}


def _full_name(source: str) -> str:
    """Return the name with its folder where only one folder of packaged recipes has it."""
    packaged = packaged_recipes()
    name = source.removesuffix(".yaml")
    if Path(source).is_file():
        return source
    if name in packaged:
        return name
    if Path(source).suffix:
        # A file: mvkit.recipes says what is wrong.
        return source
    short = {known.rpartition("/")[2]: known for known in reversed(packaged)}
    if name in short:
        return short[name]
    close = get_close_matches(name, [*packaged, *short], n=1)
    meant = f"; did you mean '{short.get(close[0], close[0])}'?" if close else ""
    raise RecipeError(
        f"recipe '{source}' is neither a file nor a packaged recipe{meant}\nall: mvkit list recipes"
    )


def _kind_of(name: str, document: Mapping[str, object]) -> RecipeKind:
    """Return the kind of a recipe: by its folder, if it is packaged, else by the keys of it and its bases."""
    if name in packaged_recipes():
        return _FOLDERS.get(name.rpartition("/")[0], "training")
    counts = {kind: len(keys & document.keys()) for kind, keys in _TYPICAL_KEYS.items()}
    likely = max(counts, key=lambda kind: counts[kind])
    return likely if counts[likely] else "scoring"


def _load(name: str, kind: RecipeKind, overrides: Sequence[str]) -> BaseModel:
    """Check a recipe as the command that takes it does."""
    if kind == "training":
        from mvkit.pipeline.train import TrainRequest, load_train_recipe

        return load_train_recipe(TrainRequest(recipe=name, overrides=tuple(overrides)))
    if kind == "prep":
        from mvkit.images.prep import PrepSettings

        return load_recipe(PrepSettings, name, overrides)
    from mvkit.pipeline.request import ScoreRequest, resolve_recipe

    return resolve_recipe(ScoreRequest(models=(), recipe=name, overrides=tuple(overrides)))


def _values(settings: BaseModel) -> dict[str, Any]:
    """Return all fields of settings as JSON values.

    Of a selection of units only those that are given: others are its preset's, where null would mean none.
    """
    from mvkit.pipeline.request import UnitSelection

    values = plain(settings.model_dump(mode="json"))
    for name in type(settings).model_fields:
        inner = getattr(settings, name)
        if isinstance(inner, UnitSelection):
            given = {"preset", *inner.model_fields_set}
            values[name] = {key: value for key, value in values[name].items() if key in given}
    return dict(values)


def _yaml_lines(value: Any, key: KeyPath = (), indent: str = "") -> Iterator[tuple[str, KeyPath]]:
    """Yield the lines of a group, each with the key whose value it holds, () for a heading."""
    for name, inner in value.items():
        path = (*key, name)
        if isinstance(inner, dict) and inner:
            yield f"{indent}{name}:", ()
            yield from _yaml_lines(inner, path, f"{indent}  ")
        elif isinstance(inner, list) and any(isinstance(item, dict) for item in inner):
            yield f"{indent}{name}:", ()
            for position, item in enumerate(inner):
                lines = list(_yaml_lines(item, (*path, str(position)), f"{indent}    "))
                for number, (line, inner_key) in enumerate(lines):
                    yield (f"{indent}  - {line.strip()}" if number == 0 else line), inner_key
        else:
            yield f"{indent}{name}: {_scalar(inner)}", path


def _scalar(value: Any) -> str:
    """Return a value as recipes write it; words without quotation marks where they stay words."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value):
        document, _ = parse_yaml(f"value: {value}", "value")
        if document["value"] == value:
            return value
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return json.dumps(value, ensure_ascii=False)
