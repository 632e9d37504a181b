"""``mvkit recipe``: show, copy and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvkit.cli.console import (
    Command,
    Group,
    JsonOption,
    complete_every_recipe,
    help_epilog,
    print_json,
    print_line,
)

_LEARN_MORE = "docs/reference/recipes.md: what each key means"

app = typer.Typer(
    cls=Group,
    help="Show, copy and check recipes: of training, scoring, preparing images.",
    epilog=help_epilog(
        "mvkit recipe show score/honest",
        "mvkit recipe copy dual_stream_ir mine.yaml",
        "mvkit recipe check mine.yaml",
        learn_more="mvkit list recipes: all that come with mvkit; " + _LEARN_MORE,
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE",
        help="A packaged recipe (score/honest, prep/cifar10, dual_stream_ir), or the path of one.",
        show_default=False,
        autocompletion=complete_every_recipe,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."),
]


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit recipe show score/honest",
        "mvkit recipe show dual_stream_ir --set train.epochs=100",
        learn_more=_LEARN_MORE,
    ),
)
def show(name: Name, overrides: Overrides = None, as_json: JsonOption = False) -> None:
    """Print a recipe with all its keys, and the file and line that each value comes from."""
    from mvkit.pipeline.recipes import open_recipe

    recipe = open_recipe(name, overrides or ())
    if as_json:
        print_json(recipe.to_json())
        return
    print_line(recipe.text(locations=True))


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit recipe copy score/honest mine.yaml",
        "mvkit recipe copy dual_stream_ir mine.yaml --full",
        learn_more=_LEARN_MORE,
    ),
)
def copy(
    name: Name,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="NEW_FILE", help="The recipe to write.", show_default="NAME.yaml, in this folder"
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Write every key, instead of the base and what to change.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a recipe of your own that starts from another one; no file is replaced."""
    from mvkit.pipeline.recipes import copy_recipe

    written, recipe = copy_recipe(name, target, full=full)
    if as_json:
        print_json({"file": written, "base": recipe.name, "kind": recipe.kind})
        return
    print_line(f"wrote {written}: change its keys, then check it: mvkit recipe check {written}")
    print_line(f"use it: {recipe.command(str(written))}")


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit recipe check mine.yaml", "mvkit recipe check mine.yaml other.yaml", learn_more=_LEARN_MORE
    ),
)
def check(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|FILE",
            help="Recipes of any kind.",
            show_default=False,
            autocompletion=complete_every_recipe,
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Check recipes: every error is named with its file and line."""
    from mvkit.errors import MvkitError, RecipeError
    from mvkit.pipeline.recipes import open_recipe

    checked, problems = [], []
    for name in names:
        try:
            checked.append(open_recipe(name))
        except MvkitError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    if as_json:
        rows = [{"recipe": one.name, "kind": one.kind, "problems": []} for one in checked]
        print_json({"recipes": rows})
        return
    for one in checked:
        print_line(f"{one.name}: a {one.kind} recipe without errors; {one.command(one.name)}")
