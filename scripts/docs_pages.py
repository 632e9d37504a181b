"""Hook of MkDocs: pages made from the code (commands, recipe keys, columns, models), and formulas as MathML.

``mkdocs build`` imports this file; see ``hooks`` in mkdocs.yml.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from mvkit.report.columns import columns_markdown

KEYS = Path(__file__).parent.parent / "docs" / "reference" / "recipe_keys.yaml"
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(?=\S)([^$\n]+?)(?<=\S)\$", re.DOTALL)
_ROLE = re.compile(r":(?:mod|func|class|meth|attr|data|exc):<code>~?(?:mvkit\.[\w.]+\.(?=[A-Z]))?")
_COLUMNS = "<!-- columns -->"
_KEYS_OF = re.compile(r"^<!-- keys of (\w+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are nothing but what the code says."""
    for path, text in {
        "reference/commands.md": commands_page(),
        "reference/models.md": models_page(),
    }.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in recipe keys, and turn formulas between dollar signs into MathML, which needs no script."""
    if _COLUMNS in markdown:
        markdown = markdown.replace(_COLUMNS, columns_markdown())
    markdown = _KEYS_OF.sub(lambda match: recipe_keys(match[1]), markdown)

    def formula(match: re.Match[str]) -> str:
        block, inline = match.groups()
        if block:
            return convert(block.strip(), display="block")
        # In an element that Markdown knows, or a line that begins with a formula would end its paragraph.
        return f"<span>{convert(inline.strip())}</span>"

    # Odd parts are code.
    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _FORMULA.sub(formula, part) for index, part in enumerate(parts))


def on_page_content(html: str, **_: object) -> str:
    """Remove what docstrings have for Sphinx (``:func:``, ``~``) from the pages of the Python API."""
    return _ROLE.sub(r"<code>", html)


def commands_page() -> str:
    """Write what ``--help`` prints for every command."""
    from mvkit.cli.main import app

    root = typer.main.get_command(app)
    commands = list(_walk(root, "mvkit"))
    lines = ["# Commands", "", "What `mvkit COMMAND --help` prints.", ""]
    lines += ["| command | what it does |", "| --- | --- |"]
    for path, command in commands[1:]:
        lines.append(f"| [`{path}`](#{path.replace(' ', '-')}) | {command.get_short_help_str(limit=200)} |")
    lines.append("")
    for path, command in commands:
        context = command.make_context(path, [], resilient_parsing=True)
        context.terminal_width = 80
        lines += [f"## {path}", "", "```text", command.get_help(context).rstrip(), "```", ""]
    return "\n".join(lines)


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    children = getattr(command, "commands", {})
    names = command.list_commands(None) if children else ()
    for name in names:
        if not children[name].hidden:
            yield from _walk(children[name], f"{path} {name}")


def models_page() -> str:
    """Write the tables of models."""
    from mvkit.models.registry import RELEASED
    from mvkit.pipeline.listing import EXTERNAL_MODELS, list_models

    titles = {
        "released": ("Released models", "Published weights: `mvkit fetch checkpoints NAME`."),
        "architecture": (
            "Architectures",
            "Without published weights: `--weights random`, or a file. "
            "Packaged [recipes](recipes.md#training-recipes) train them.",
        ),
        "long name": (
            "Architectures by their names in the authors' code",
            "Networks of the paper's Table 2. They take `--weights random` or a file, too.",
        ),
        "baseline": ("Baselines", "They need no weights."),
    }
    lines = [
        "# Models",
        "",
        "`mvkit list models` prints these tables, `mvkit list layers MODEL` the layers of one; neither needs "
        "a checkpoint (`mvkit.list_models()` in Python, `--json` for scripts). BN: batch norm. Numbers of "
        "layers are those that are scored by default.",
        "",
        "MouseNet is the variant of the paper's code (LGNv without batch norm and ReLU), not Shi et al.'s. "
        "Checkpoints are read without running anything they name.",
        "",
    ]
    for group, (title, text) in titles.items():
        rows = [row for row in list_models() if row.group == group]
        if not rows:
            continue
        lines += [f"## {title}", "", text, ""]
        lines += [
            "| name | what it is | input | layers | parameters | weights |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in rows:
            what = ", ".join(filter(None, (row.description, row.objective)))
            weights = "published" if row.name in RELEASED else "none published"
            weights = "none needed" if group == "baseline" else weights
            parameters = f"{row.n_parameters / 1e6:.1f} M" if row.n_parameters else "none"
            lines.append(
                f"| `{row.name}` | {what} | {row.input_px} px | {row.n_layers} | {parameters} | {weights} |"
            )
        lines.append("")
    lines += ["## Models from elsewhere", "", "[How to use your own network](../howto/own-network.md).", ""]
    lines += ["| name | what it is |", "| --- | --- |"]
    lines += [f"| `{name}` | {what} |" for name, what in EXTERNAL_MODELS.items()]
    return "\n".join([*lines, ""])


def recipe_keys(kind: str) -> str:
    """Write tables of all keys of a kind of recipe, group by group: type, default, meaning.

    Parameters
    ----------
    kind
        Name of the class: ``"ScoreRecipe"``, ``"TrainRecipe"``, ``"PrepSettings"``.
    """
    meanings = yaml.safe_load(KEYS.read_text(encoding="utf-8"))
    lines: list[str] = []
    for path, settings in _groups(_recipe_class(kind), "", set()):
        if path:
            lines += [f"### {path} {{ #{settings.__name__.lower()} }}", "", _summary(settings), ""]
        lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for key, field in settings.model_fields.items():
            meaning = meanings.get(settings.__name__, {}).get(key) or meanings["any"][key]
            default = "required" if field.is_required() else f"`{_default(field)}`"
            lines.append(f"| `{key}` | {_type(field.annotation)} | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _recipe_class(kind: str) -> type[BaseModel]:
    from mvkit.images.prep import PrepSettings
    from mvkit.pipeline.request import ScoreRecipe
    from mvkit.training.recipe import TrainRecipe

    return {"ScoreRecipe": ScoreRecipe, "TrainRecipe": TrainRecipe, "PrepSettings": PrepSettings}[kind]


def _groups(model: type[BaseModel], path: str, seen: set[type]) -> Iterator[tuple[str, type[BaseModel]]]:
    if model in seen:
        return
    seen.add(model)
    yield path, model
    for key, field in model.model_fields.items():
        parts = list(_classes(field.annotation))
        for part in parts:
            title = f"{path.split(' (')[0]}.{key}".strip(".")
            kind = part.model_fields.get("name")
            if (
                kind is not None
                and "name" in part.model_fields
                and typing.get_origin(kind.annotation) is typing.Literal
            ):
                title += f" ({', '.join(typing.get_args(kind.annotation))})"
            yield from _groups(part, title, seen)


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _classes(argument)


def _summary(model: type[BaseModel]) -> str:
    text = inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("name")
        literal = kind is not None and typing.get_origin(kind.annotation) is typing.Literal
        names = typing.get_args(kind.annotation) if kind is not None and literal else ("group",)
        return f"[{', '.join(names)}](#{annotation.__name__.lower()})"
    names_of_types = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        Path: "folder",
    }
    return names_of_types.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_defaults=True)
        return _yaml(given) if given else "its defaults"
    if isinstance(value, tuple) and len(value) > 6:
        return f"[{value[0]:g}, ..., {value[-1]:g}]"
    return _yaml(value)


def _yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)
