"""Hook of MkDocs: pages generated from the code (commands, recipe keys, models), and formulas as MathML.

``mkdocs build`` imports this file; see ``hooks`` in mkdocs.yml.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import typer
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(?=\S)([^$\n]+?)(?<=\S)\$", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/commands.md": commands_page(),
        "reference/recipes.md": recipes_page(),
        "reference/models.md": models_page(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turn formulas between dollar signs into MathML, which browsers draw without a script."""

    def formula(match: re.Match[str]) -> str:
        block, inline = match.groups()
        return convert((block or inline).strip(), display="block" if block else "inline")

    # Odd parts are code.
    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _FORMULA.sub(formula, part) for index, part in enumerate(parts))


def commands_page() -> str:
    """Write what ``--help`` prints for every command."""
    from mvkit.cli.main import app

    root = typer.main.get_command(app)
    lines = ["# Commands", "", "What `--help` prints. `mvkit COMMAND --help` shows it in the terminal.", ""]
    for path, command in _walk(root, "mvkit"):
        context = command.make_context(path, [], resilient_parsing=True)
        context.terminal_width = 96
        lines += [f"## {path}", "", "```text", command.get_help(context).rstrip(), "```", ""]
    return "\n".join(lines)


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _walk(child, f"{path} {name}")


def recipes_page() -> str:
    """Write every key of every kind of recipe with type, default and meaning."""
    from mvkit.images.prep import PrepRecipe
    from mvkit.scoring.settings import ScoreSettings
    from mvkit.training.recipe import TrainingRecipe

    lines = [
        "# Recipes",
        "",
        "A recipe is a YAML file. `--set KEY=VALUE` changes a key, with dots between the levels.",
        "`base:` names the recipe that a file lies over. Unknown keys are refused.",
        "",
    ]
    kinds = (
        ("Training recipes", "mvkit train RECIPE", TrainingRecipe),
        ("Scoring recipes", "mvkit score MODEL --recipe RECIPE", ScoreSettings),
        ("Prep recipes", "mvkit prep RECIPE --images DIR", PrepRecipe),
    )
    for title, usage, model in kinds:
        lines += [f"## {title}", "", f"`{usage}`", ""]
        for settings in _with_parts(model, set()):
            lines += [f"### {settings.__name__}", "", _docstring(settings), ""]
            lines += ["| key | type | default |", "| --- | --- | --- |"]
            for key, field in settings.model_fields.items():
                default = "required" if field.is_required() else f"`{_default(field)}`"
                lines.append(f"| `{key}` | {_type(field.annotation)} | {default} |")
            lines.append("")
    return "\n".join(lines)


def _with_parts(model: type[BaseModel], seen: set[type]) -> Iterator[type[BaseModel]]:
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        for part in _classes(field.annotation):
            yield from _with_parts(part, seen)


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _classes(argument)


def _docstring(model: type[BaseModel]) -> str:
    text = (model.__doc__ or "").strip()
    return re.sub(
        r":\w+:`~?([^`]+)`", r"`\1`", "\n".join(line.strip() for line in text.splitlines())
    ).replace("``", "`")


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}()"
    if isinstance(value, tuple) and len(value) > 6:
        return f"{value[0]:g} ... {value[-1]:g} ({len(value)} values)"
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, (tuple, list, dict))
        else str(value)
    )


def models_page() -> str:
    """Write the table of models."""
    from mvkit.models import list_models

    return "\n".join(["# Models", "", *(f"- `{name}`" for name in list_models())])
