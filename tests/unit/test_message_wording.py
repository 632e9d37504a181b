"""Messages that Python code can raise name parameters, and options only for those who typed a command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mvkit

PACKAGE = Path(mvkit.__file__).parent
#: Packages that scripts and notebooks call.
REACHED = ("neural", "models", "features", "training", "scoring")
SOURCES = sorted(path for package in REACHED for path in (PACKAGE / package).rglob("*.py"))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
#: Options of other programs.
OTHERS = {"dask's own --memory-limit"}


def texts_for_everybody(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the strings of a module that are neither docstrings nor words for the command line."""
    apart: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(
            node.body[0], ast.Expr
        ):
            apart.add(id(node.body[0].value))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "wording":
            apart |= {id(part) for part in ast.walk(node.args[0])}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_options_stand_in_words_for_the_command_line_only(path: Path) -> None:
    for node in texts_for_everybody(ast.parse(path.read_text(encoding="utf-8"))):
        text = str(node.value)
        for other in OTHERS:
            text = text.replace(other, "")
        # A whole command (`mvkit fetch neural --dataset NAME`) can be typed by anybody.
        if "mvkit " not in text:
            assert OPTION.search(text) is None, f"{path}:{node.lineno}: use wording(): {text!r}"
