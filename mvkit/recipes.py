"""Recipes: strict YAML files of what to compute, never where or on what machine.

A recipe may name another one as its ``base``, and ``--set key=value`` changes keys of the result. All that is
wrong with it is reported at once, each problem with the file and line, or the ``--set``, that gave the key.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from mvkit.errors import RecipeError, printable, suggest, valid_names, wording
from mvkit.files import inspect_file
from mvkit.paths import expand

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

#: What names of recipes, and so of folders, may be made of.
NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"

Model = TypeVar("Model", bound=BaseModel)

#: Path of a key, list positions as digits: ``("evaluate", "0", "name")``.
KeyPath = tuple[str, ...]
#: Where keys were given: ``file:line``, or ``--set key=value``.
KeyLocations = dict[KeyPath, str]

#: The key that names a recipe's base; the folder of packaged recipes that are only bases.
_BASE, _BASES = "base", "base/"
#: The key of a group that names its kind (``optimiser: {name: sgd}``).
_KIND = "name"
#: Values and depth of a recipe at most; aliases make more of a few bytes.
_MOST_VALUES, _DEEPEST = 10_000, 32
#: Bytes of a recipe's file at most; PyYAML reads as many a second.
_LARGEST = 100_000
#: Characters of an input, names of recipes and problems that a message shows.
_LONGEST, _MOST_NAMES, _MOST_PROBLEMS = 80, 12, 20
#: The recipe that the defaults of scoring are.
_DEFAULTS = "score/paper"


class Settings(BaseModel):
    """A group of settings: frozen, unknown keys, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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


def load_recipe(model: type[Model], source: str | None, overrides: Sequence[str] = ()) -> Model:
    """Read a recipe with its bases, and apply overrides.

    Parameters
    ----------
    model
        Pydantic model that the recipe must satisfy (frozen, ``extra="forbid"``). Where it requires a ``name``
        and neither the recipe nor a base gives one, it is the file's.
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
    given: KeyLocations = {}
    changed: KeyLocations = {}
    if source is not None:
        path, document, given = read_recipe(source)
        if _KIND in model.model_fields and model.model_fields[_KIND].is_required():
            document.setdefault(_KIND, path.stem)
    for override in overrides:
        key, text = _apply(override, document), _override_name(override)
        for table in (given, changed):
            _forget(key, table)
        given[key] = text
        changed |= {key[:length]: text for length in range(1, len(key))}
    try:
        # As JSON and strictly: a list is a tuple there, but the text "no" is no False and "3" no number.
        return model.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        lines = []
        for key, text in describe_problems(error, model, all_keys=f"mvkit recipe show {source or _DEFAULTS}"):
            where = location_of(key, given, changed) or (_shown(path) if source is not None else "defaults")
            # "--set n_splits=ten: give a whole number" has the key already.
            has_key = where.startswith(f"--set {_written(key)}=") and text.startswith(("give ", "unknown "))
            lines.append(f"{where}: {text}" if has_key or not key else f"{where}: {_written(key)}: {text}")
        if len(lines) > _MOST_PROBLEMS:
            lines[_MOST_PROBLEMS:] = [f"... and {len(lines) - _MOST_PROBLEMS:,} more problems"]
        raise RecipeError("\n".join(lines)) from error


def read_recipe(source: str) -> tuple[Path, dict[str, object], KeyLocations]:
    """Read a recipe and merge it with its bases; nothing is checked but its YAML.

    Parameters
    ----------
    source
        Path of a recipe, or name of a packaged one.

    Returns
    -------
    path
        The file.
    document
        All keys that it and its bases give.
    locations
        Where each was given, ``file:line``.

    Raises
    ------
    RecipeError
        If there is no such recipe, or it or a base is no YAML.
    """
    path = find_recipe(source)
    return path, *_resolve(path)


def find_recipe(source: str) -> Path:
    """Return the file of a recipe given by path or by packaged name.

    Raises
    ------
    RecipeError
        Neither a file nor a packaged recipe; names packaged ones.
    """
    packaged = packaged_recipes()
    path = _find(source, Path(), packaged)
    if path is not None and path.suffix != ".py":
        return path
    if re.search(r"\.py(:|$)", source):
        raise RecipeError(
            f"{_short(source)} is Python, and a recipe is YAML\n"
            f"to score a network of your own: mvkit score {source.partition(':')[0]}:FUNCTION"
        )
    if (problem := _file_problem(source)) is not None:
        raise RecipeError(
            f"recipe '{printable(source)}' is {problem}; give a YAML file, or a name (mvkit list recipes)"
        )
    # A path as in the repository, recipes/demo.yaml.
    name = source.removeprefix("recipes/").removesuffix(".yaml")
    if name in packaged:
        raise RecipeError(f"no file {source} here; the packaged recipe is called {name}")
    siblings = [other for other in packaged if other.rpartition("/")[0] == name.rpartition("/")[0]]
    names = siblings or list(packaged)
    raise RecipeError(
        f"recipe {_short(source)} is neither a file nor a packaged recipe{suggest(name, names)}\n"
        f"packaged: {', '.join(names[:_MOST_NAMES])}{' ...' if len(names) > _MOST_NAMES else ''}; "
        "all: mvkit list recipes"
    )


def _find(source: str, folder: Path, packaged: Mapping[str, Path]) -> Path | None:
    """Return the file in a folder, or the packaged recipe, that a path or name means; None: there is none."""
    path = folder / expand(source)
    try:
        if path.is_file():
            return Path(os.path.normpath(path))
    except OSError:
        # A name that no file could have, such as one of 300 characters.
        return None
    return packaged.get(source.removesuffix(".yaml"))


def _file_problem(source: str) -> str | None:
    """Return what a path is that exists and is no file, such as "a folder, not a file"; else None."""
    try:
        return inspect_file(Path(source)).problem if os.path.lexists(source) and os.sep in source else None
    except (OSError, ValueError):
        return None


def read_document(path: Path) -> dict[str, object]:
    """Return a recipe merged into its bases as plain data, whatever kind of recipe it is; nothing is checked.

    Raises
    ------
    RecipeError
        If the file or a base cannot be read.
    """
    return _resolve(path)[0]


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes that come with mvkit, by name (``score/paper``); not those that are only bases."""
    return {name: path for name, path in _packaged().items() if not name.startswith(_BASES)}


def _packaged() -> dict[str, Path]:
    folder = _packaged_folder()
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def _packaged_folder() -> Path:
    package = Path(str(resources.files("mvkit")))
    # A wheel has it inside the package, a checkout beside it.
    inside = package / "packaged_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def _shown(path: Path) -> str:
    """Return a recipe's path as messages show it: of a packaged one the path in the repository."""
    folder = _packaged_folder()
    return f"recipes/{path.relative_to(folder)}" if folder in path.parents else str(path)


def _resolve(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, object], KeyLocations]:
    """Read a recipe and merge it into its base; ``above`` are the recipes whose base it is itself."""
    document, lines = read_yaml(path)
    given = {key: f"{_shown(path)}:{line}" for key, line in lines.items()}
    if _BASE not in document:
        return document, given
    base, where = document.pop(_BASE), f"{given.pop((_BASE,))}: {_BASE}"
    above = (*above, path.resolve())
    packaged = _packaged()
    if not isinstance(base, str):
        raise RecipeError(f"{where}: names one recipe, a file or a packaged one, got {_short(base)}")
    base_path = _find(base, path.parent, packaged)
    if base_path is None:
        bases = [name for name in packaged if name.startswith(_BASES)]
        raise RecipeError(
            f"{where}: {_short(base)} is neither a file (relative to {_shown(path)}) nor a packaged recipe"
            f"{suggest(base, packaged)}\npackaged: every recipe that can be run, and {', '.join(bases)}"
        )
    if base_path.resolve() in above:
        raise RecipeError(f"{where}: {_short(base)} leads back to a recipe of which it is the base")
    merged, base_given = _resolve(base_path, above)
    _merge(merged, document, base_given)
    return merged, base_given | given


def _merge(
    base: dict[str, object], over: Mapping[str, object], given: KeyLocations, group: KeyPath = ()
) -> None:
    """Merge a recipe into its base: groups key by key; lists, values and groups of another kind replace."""
    for key, value in over.items():
        path, old = (*group, key), base.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _kinds_differ(old, value):
            _merge(old, value, given, path)
        else:
            base[key] = value
            _forget(path, given)


def _kinds_differ(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    return _KIND in old and _KIND in new and old[_KIND] != new[_KIND]


def _forget(key: KeyPath, locations: KeyLocations) -> None:
    """Forget where a key and all beneath it were given."""
    for inner in [other for other in locations if other[: len(key)] == key]:
        del locations[inner]


def location_of(key: KeyPath, given: KeyLocations, changed: KeyLocations | None = None) -> str | None:
    """Return where a key, or the innermost group that it is in, was given, or changed by an override."""
    changed = changed or {}
    for length in range(len(key), 0, -1):
        group = key[:length]
        # An override made or changed part of the group; of an outer one, only if no file has it.
        if group in changed and (length == len(key) or group not in given):
            return changed[group]
        if group in given:
            return given[group]
    return None


def _override_name(override: str) -> str:
    shown = _one_line(override)
    return wording(f"--set {shown}", f"override {shown}")


def _one_line(text: str) -> str:
    """Return text as messages show it: short, line ends and control characters escaped."""
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def _apply(override: str, document: dict[str, object]) -> KeyPath:
    """Apply ``group.key=value`` or ``list[0].key=value``, making missing groups; return the key."""
    text, equals, value = override.partition("=")
    path = _parts(text)
    if not equals or not all(path):
        raise RecipeError(f"{_override_name(override)}: write it as key=value, for instance n_splits=5")
    if len(path) > _DEEPEST:
        raise RecipeError(f"{_override_name(override)}: nested too deeply")
    if path[0] == _BASE:
        raise RecipeError(f"{_override_name(override)}: a recipe's base is named in its file only")
    group: Any = document
    for depth, part in enumerate(path):
        outer = _written(path[:depth])
        key: int | str = part
        if isinstance(group, list):
            if not part.isdecimal() or int(part) >= len(group):
                raise RecipeError(
                    f"{_override_name(override)}: '{outer}' is a list of {len(group)} items; "
                    f"write {outer}[0] for the first, or give the whole list: {outer}=[...]"
                )
            key = int(part)
        elif not isinstance(group, dict):
            raise RecipeError(f"{_override_name(override)}: '{outer}' is a value, not a group of keys")
        if depth == len(path) - 1:
            group[key] = parse_scalar(value, _override_name(override))
        # A group given as null (`schedule:` with nothing after it) is as good as one left out.
        elif isinstance(group, dict) and group.get(part) is None:
            group[key] = {}
        group = group[key]
    return path


def _written(key: KeyPath) -> str:
    """Return a key path as it is written: ``views.views[0].steps[1].name``."""
    written = "".join(f"[{part}]" if part.isdecimal() else f".{part or repr(part)}" for part in key)
    return _one_line(written.removeprefix("."))


def _parts(key: str) -> KeyPath:
    """Return the path that a written key means; ``a[0].b`` and ``a.0.b`` are the same."""
    return tuple(re.sub(r"\[(\d+)\]", r".\1", key.strip()).split("."))


def describe_problems(
    error: ValidationError, model: type[BaseModel], *, all_keys: str = ""
) -> list[tuple[KeyPath, str]]:
    """Return what is wrong with settings, in mvkit's words: each key, and what to give for it.

    Parameters
    ----------
    error
        As pydantic raised it.
    model
        The settings that it was raised for.
    all_keys
        The command that lists all keys, for unknown ones.
    """
    problems = [
        problem for details in _causes(error.errors()) for problem in _problems(details, model, all_keys)
    ]
    # A value that may be of several kinds has an error for each kind.
    return list(dict.fromkeys(problems))


def _causes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that a list is too short because an item of it, reported by itself, is invalid."""
    keys = [details["loc"] for details in errors]
    return [
        details
        for details, key in zip(errors, keys, strict=True)
        if details["type"] != "too_short"
        or not any(other[: len(key)] == key for other in keys if other != key)
    ]


def _problems(details: ErrorDetails, model: type[BaseModel], all_keys: str) -> Iterator[tuple[KeyPath, str]]:
    """Yield the keys, and what is wrong with them, that an error of pydantic means."""
    key, models, schema = _follow(model, details)
    kind, context = details["type"], details.get("ctx", {})
    own = context.get("error")
    expected = _expected(schema)
    if isinstance(own, KeyedError):
        yield from ((key + _parts(inner), text) for inner, text in own.problems)
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [name for member in models for name in _kinds(member)]
        tag = str(context.get("tag", ""))
        wrong = f"unknown name '{tag}'{suggest(tag, kinds)}" if "tag" in context else "missing"
        yield (*key, _KIND), f"{wrong}; {valid_names(tag, kinds)}"
    elif kind == "extra_forbidden":
        valid = [name for member in models for name in member.model_fields]
        valid += [_BASE] if len(key) == 1 else []
        meant = suggest(key[-1], valid)
        yield key, f"unknown key{meant or f'; {valid_names(key[-1], valid, all_keys)}'}"
    elif kind == "missing":
        yield key, f"missing{f': give {expected}' if expected else ''}"
    elif kind in ("value_error", "assertion_error") or not expected:
        text = re.sub(r"(, got .*|, unable to parse .*)$", "", details["msg"].removeprefix("Value error, "))
        yield key, f"{text}, got {_short(details['input'])}"
    else:
        value = details["input"]
        if isinstance(value, float) and not math.isfinite(value):
            expected = expected.replace("a number", "a finite number", 1)
        meant = suggest(value, _words(schema)) if isinstance(value, str) else ""
        yield key, f"give {expected}, got {_short(value)}{meant}"


def _expected(schema: Mapping[str, Any]) -> str:
    """Return in words what a JSON schema allows: ``a number above 0, or cv``; "" where that is not known."""
    for several in ("anyOf", "oneOf"):
        if several in schema:
            parts = list(dict.fromkeys(filter(None, map(_expected, schema[several]))))
            # "a, b or c", but "a number, 1 or more, or null".
            comma = "," if len(parts) > 1 and " " in parts[-2] else ""
            return f"{', '.join(parts[:-1])}{comma} or {parts[-1]}" if len(parts) > 1 else "".join(parts)
    if "enum" in schema or "const" in schema:
        words = [word if isinstance(word, str) else json.dumps(word) for word in _constants(schema)]
        return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    match schema.get("type"):
        case "integer":
            return f"a whole number{_bounds(schema)}"
        case "number":
            return f"a number{_bounds(schema)}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "array":
            return _expected_list(schema)
        case "object":
            return "a group of keys"
        case "string" if "pattern" in schema:
            return (
                "a word of letters, digits, - and _, with dots inside"
                if schema["pattern"] == NAME_PATTERN
                else "a text"
            )
        case "string":
            return "a text"
    return "a group of keys" if "$ref" in schema else ""


def _expected_list(schema: Mapping[str, Any]) -> str:
    items = schema.get("prefixItems") or [schema.get("items", {})]
    kinds = {"number": "numbers", "integer": "whole numbers", "string": "texts"}
    noun = kinds.get(items[0].get("type", ""), "items")
    least, most = schema.get("minItems"), schema.get("maxItems")
    if least is not None and least == most:
        return f"a list of {least} {noun}"
    return f"a list of {noun}{'' if least is None else f', {least} or more'}"


def _bounds(schema: Mapping[str, Any]) -> str:
    """Return `` from 0 to 1``, ``, 1 or more``, `` above 0``: the range of a number."""
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f" from {_number(least)} to {_number(most)}"
    ends = [f"above {above:g}"] if above is not None else []
    ends += [f"below {below:g}"] if below is not None else []
    ends += [f"at most {most:g}"] if most is not None else []
    if least is not None:
        return f", {least:g} or more{''.join(f', {end}' for end in ends)}"
    return f" {' and '.join(ends)}" if ends else ""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _constants(schema: Mapping[str, Any]) -> list[object]:
    return list(schema["enum"]) if "enum" in schema else [schema["const"]]


def _words(schema: Mapping[str, Any]) -> list[str]:
    """Return the words that a JSON schema allows."""
    inner = [part for several in ("anyOf", "oneOf") for part in schema.get(several, ())]
    own = _constants(schema) if "enum" in schema or "const" in schema else []
    return [word for word in own if isinstance(word, str)] + [word for part in inner for word in _words(part)]


def _follow(
    model: type[BaseModel], details: ErrorDetails
) -> tuple[KeyPath, list[type[BaseModel]], Mapping[str, Any]]:
    """Return the key that an error's location means, the models of the innermost group, and its JSON schema.

    Inside unions pydantic puts the chosen member into the location (``objective.simclr.temperatur``), which
    nobody wrote: a part is a key if it is a field, an item of a list, or the unknown key of the error.
    """
    key: list[str] = []
    models: list[type[BaseModel]] = [model]
    schema: Mapping[str, Any] = {}
    for depth, part in enumerate(details["loc"], start=1):
        fields = models[0].model_fields if len(models) == 1 else {}
        if isinstance(part, int):
            key.append(str(part))
            items = schema.get("prefixItems", [])
            schema = items[part] if part < len(items) else schema.get("items", {})
        elif part in fields:
            key.append(part)
            schema = models[0].model_json_schema()["properties"].get(part, {})
            models = _models_in(fields[part].annotation)
        elif details["type"] == "extra_forbidden" and depth == len(details["loc"]):
            key.append(part)
        else:
            models = [member for member in models if part in (member.__name__, *_kinds(member))]
    return tuple(key), models, schema


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _kinds(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the values that the ``name`` of a member of a union may have."""
    field = model.model_fields.get(_KIND)
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def _short(value: object) -> str:
    # true, false and null as in YAML.
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


# YAML as recipes need it: scalars of YAML 1.2's core schema (yaml.org/spec/1.2.2, section 10.3), where PyYAML
# follows YAML 1.1, in which `no` is false and `3e-2` is text; no key twice; the line of every key.

_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, tuple[str, Callable[[str], object]]] = {
    f"{_TAG}null": (r"(?:~|null|Null|NULL|)$", lambda text: None),
    f"{_TAG}bool": (r"(?:true|True|TRUE|false|False|FALSE)$", lambda text: text.lower() == "true"),
    f"{_TAG}int": (
        r"(?:[-+]?[0-9]+|0o[0-7]{1,21}|0x[0-9a-fA-F]{1,16})$",
        lambda text: int(text, 0 if text[:2] in ("0o", "0x") else 10),
    ),
    f"{_TAG}float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        lambda text: float(re.sub(r"\.(?=[inIN])", "", text)),
    ),
    f"{_TAG}str": (r"(?!)", str),
}


class _Core12Loader(yaml.SafeLoader):
    """A loader with YAML 1.2 scalars; the resolver table is its own."""


_Core12Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _) in _SCALARS.items():
    _Core12Loader.add_implicit_resolver(_tag, re.compile(_pattern), None)


def read_yaml(path: Path) -> tuple[dict[str, object], dict[KeyPath, int]]:
    """Read a recipe file as it stands, without its bases.

    Returns
    -------
    document
        The mapping as plain Python values.
    lines
        The 1-based line of every key and item of a list, by its path.

    Raises
    ------
    RecipeError
        The file is missing, is no YAML, holds a key twice, or is no mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{_shown(path)}: cannot be read as a recipe ({error})") from error
    except UnicodeDecodeError as error:
        kind = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "not UTF-8"
        line = content.count(b"\n", 0, error.start) + 1
        where = _shown(path) if kind == "UTF-16" else f"{_shown(path)}:{line}"
        raise RecipeError(f"{where}: {kind}; a recipe is text in UTF-8: save it so in your editor") from error
    return parse_yaml(text, _shown(path))


def parse_yaml(text: str, name: str) -> tuple[dict[str, object], dict[KeyPath, int]]:
    """Parse recipe text; ``name`` stands for the file in messages. See :func:`read_yaml`."""
    lines: dict[KeyPath, int] = {}
    if len(text) > _LARGEST:
        raise RecipeError(f"{name}: longer than {_LARGEST:,} characters, which no recipe is")
    try:
        node = _Core12Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        problem = str(error.problem)
        if "'\\t'" in problem:
            problem = "a tab; YAML is indented with spaces"
        elif problem.startswith(("but found", "second")):
            problem = f"{error.context}, {problem}"
        raise RecipeError(f"{name}:{line}: not valid YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        where = f"{name}:{line}: the character U+{ord(text[error.position]):04X}"
        raise RecipeError(f"{where}; a recipe is text in UTF-8: save it so in your editor") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise RecipeError(f"{name}: lists or groups are nested too deeply") from error
    if not isinstance(node, yaml.MappingNode):
        kind = "empty" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "a text"
        raise RecipeError(f"{name}: a recipe is a mapping of keys to values (key: value); this is {kind}")
    return _value_of(node, (), lines, name), lines


def parse_scalar(text: str, name: str = "--set") -> object:
    """Read one value as a recipe would (``--set key=VALUE``)."""
    try:
        document, _ = parse_yaml(f"value: {text}", name)
    except RecipeError as error:
        if "<stream end>" in str(error):
            raise RecipeError(f"{name}: the value is not complete") from error
        message = (
            str(error).replace(f"{name}:1: ", f"{name}: ", 1).replace(f"{name}: value: ", f"{name}: ", 1)
        )
        raise RecipeError(message) from error
    if len(document) > 1:
        raise RecipeError(f"{name}: more than one value")
    return document["value"]


def _value_of(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    """Return the plain value of a node, and record the line of every key and of every item of a list."""
    line = node.start_mark.line + 1
    if len(path) > _DEEPEST:
        raise RecipeError(f"{name}:{line}: {_written(path[:3])}: is nested too deeply, or an alias of itself")
    if len(lines) > _MOST_VALUES:
        raise RecipeError(f"{name}:{line}: more than {_MOST_VALUES:,} values; are there aliases of aliases?")
    if node.tag not in (f"{_TAG}map", f"{_TAG}seq", *_SCALARS):
        raise RecipeError(
            f"{name}:{line}: {_written(path)}: not valid YAML for a recipe: "
            f"a value of {_one_line(node.tag.replace(_TAG, '!!'))}"
        )
    if isinstance(node, yaml.SequenceNode):
        items = []
        for position, item in enumerate(node.value):
            lines[*path, str(position)] = item.start_mark.line + 1
            items.append(_value_of(item, (*path, str(position)), lines, name))
        return items
    if isinstance(node, yaml.MappingNode):
        group = {}
        for key_node, value_node in node.value:
            line, key = key_node.start_mark.line + 1, (*path, str(key_node.value))
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{name}:{line}: not valid YAML for a recipe: a key must be a word")
            if key in lines:
                raise RecipeError(f"{name}:{line}: {_written(key)}: given twice (first on line {lines[key]})")
            if key_node.value == "<<":
                raise RecipeError(
                    f"{name}:{line}: <<: not in YAML 1.2; `base: FILE` takes over a recipe's keys"
                )
            lines[key] = line
            group[key_node.value] = _value_of(value_node, key, lines, name)
        return group
    return _scalar_of(node, f"{name}:{line}: {_written(path)}")


def _scalar_of(node: yaml.Node, where: str) -> object:
    """Return the value of a scalar; RecipeError if it is not of the kind that its tag names."""
    text = str(node.value)
    if node.tag == f"{_TAG}str" and not text.isprintable() and printable(text) != text:
        raise RecipeError(f"{where}: {_short(text)}: half a character")
    pattern, read = _SCALARS.get(node.tag, ("", str))
    try:
        if node.tag != f"{_TAG}str" and re.match(pattern, text) is None:
            raise ValueError(text)
        return read(text)
    except ValueError as error:
        long = f", a number of {len(text):,} characters" if len(text) > _LONGEST else ""
        raise RecipeError(f"{where}: cannot read {_short(text)}{long}") from error
