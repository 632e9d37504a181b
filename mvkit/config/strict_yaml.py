"""YAML as recipes need it: YAML 1.2 scalars, no duplicate keys, and the line of every key.

PyYAML follows YAML 1.1, where ``no`` is false and ``3e-2`` is text. Recipes are
read with the scalar rules of YAML 1.2's core schema instead (yaml.org/spec/1.2.2,
section 10.3).
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from mvkit.errors import RecipeError

#: Place of a key in a recipe, e.g. ``("score", "n_splits")``.
KeyPath = tuple[str, ...]

_SCALARS = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
)


class _Core12Loader(yaml.SafeLoader):
    """A safe loader with YAML 1.2 scalars; the resolver table is its own."""


_Core12Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _SCALARS:
    _Core12Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def _construct_int(loader: _Core12Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Core12Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(path: Path) -> tuple[dict[str, object], dict[KeyPath, int]]:
    """Read a recipe file.

    Parameters
    ----------
    path
        A UTF-8 YAML file whose top level is a mapping.

    Returns
    -------
    document
        The mapping as plain Python values.
    lines
        The 1-based line of every key, by its path.

    Raises
    ------
    RecipeError
        The file is missing, is no YAML, holds a key twice, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a recipe ({error})") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> tuple[dict[str, object], dict[KeyPath, int]]:
    """Parse recipe text; ``name`` stands for the file in messages. See :func:`read_yaml`."""
    loader = _Core12Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{name}: a recipe is a mapping of keys to values")
        lines: dict[KeyPath, int] = {}
        _note_lines(node, (), lines, name)
        document = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise RecipeError(f"{name}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not valid YAML: {error}") from error
    finally:
        loader.dispose()
    return document, lines


def parse_scalar(text: str) -> object:
    """Read one value as a recipe would (``--set key=VALUE``)."""
    document, _ = parse_yaml(f"value: {text}", "--set")
    return document["value"]


def _note_lines(node: yaml.Node, prefix: KeyPath, lines: dict[KeyPath, int], name: str) -> None:
    """Note the line of every key and of every item of a list (its position as digits)."""
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            lines[*prefix, str(position)] = item.start_mark.line + 1
            _note_lines(item, (*prefix, str(position)), lines, name)
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key = (*prefix, str(key_node.value))
        line = key_node.start_mark.line + 1
        if key in lines:
            raise RecipeError(f"{name}:{line}: {'.'.join(key)}: given twice (first on line {lines[key]})")
        lines[key] = line
        _note_lines(value_node, key, lines, name)
