"""``mvkit list``: models, the layers of a model, recipes, datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mvkit.cli.console import (
    Command,
    Group,
    HomeOption,
    InputSize,
    JsonOption,
    complete_models,
    help_epilog,
    home_path,
    plain_table,
    print_json,
    print_line,
    print_renderable,
    split_commas,
)
from mvkit.files import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.features import LayerInfo
    from mvkit.pipeline.listing import ListedDataset, ListedModel, ListedRecipe

_LEARN_MORE = "docs/howto/own-network.md: names of models and layers, networks from elsewhere"

app = typer.Typer(
    cls=Group,
    help="List models, the layers of a model, recipes, datasets.",
    epilog=help_epilog(
        "mvkit list models",
        "mvkit list layers alexnet_bn_ir",
        "mvkit list recipes simclr",
        learn_more=_LEARN_MORE,
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PATTERN = "Only these: a glob ('alexnet*') or a part of the name."
Pattern = Annotated[str | None, typer.Argument(metavar="PATTERN", help=_PATTERN, show_default=False)]


@app.command(
    cls=Command,
    epilog=help_epilog("mvkit list models", "mvkit list models 'resnet*'", learn_more=_LEARN_MORE),
)
def models(pattern: Pattern = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the models that score, extract and recipes know by name."""
    from mvkit.pipeline.listing import EXTERNAL_MODELS, list_models

    rows = list_models(pattern, home=home_path(home))
    if as_json:
        print_json({"models": [asdict(row) for row in rows], "external": dict(EXTERNAL_MODELS)})
        return
    _print_models(rows)
    if pattern is None:
        print_line("Networks from elsewhere")
        table = plain_table("name", "what it is")
        for name, description in EXTERNAL_MODELS.items():
            table.add_row(name, description)
        print_renderable(table)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit list layers alexnet_bn_ir",
        "mvkit list layers mynet.py:SmallNet -l 'conv*'",
        learn_more=_LEARN_MORE,
    ),
)
def layers(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Any model that score and extract take.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ],
    patterns: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            "-l",
            metavar="PATTERN",
            help="Only these: names, globs (features.*), with commas between, or re:REGEX.",
            show_default="all",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="As for score.",
            show_default="random, which needs no checkpoint; a training run's own",
        ),
    ] = None,
    input_size: InputSize = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the layers of a model with their shapes; needs no checkpoint.

    Only modules are layers, not functions that a forward calls (F.relu, +).
    """
    from mvkit.models.names import check_models

    # Before torch is imported, which takes seconds.
    check_models([model], weights=weights or "random", layers=split_commas(patterns), home=home_path(home))
    from mvkit.pipeline.listing import list_layers

    listing = list_layers(
        model,
        split_commas(patterns),
        weights=weights,
        input_size=input_size,
        home=home_path(home),
    )
    if as_json:
        print_json(listing.to_json())
        return
    print_line(": ".join(filter(None, (listing.model, listing.description))))
    print_renderable(layer_table(listing.layers))
    for name, parts in listing.joined.items():
        print_line(f"joined: {name} = {' + '.join(parts)}")
    for name, reason in listing.left_out.items():
        print_line(f"not tappable: {name}: {reason}")


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit list recipes",
        "mvkit list recipes simclr",
        learn_more="mvkit recipe --help: show, copy and check one",
    ),
)
def recipes(pattern: Pattern = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the recipes that come with mvkit: of training, scoring, preparing images."""
    from mvkit.pipeline.listing import list_recipes

    rows = list_recipes(pattern)
    if as_json:
        print_json({"recipes": [asdict(row) for row in rows]})
        return
    for group in dict.fromkeys((row.command, row.in_table2) for row in rows):
        _print_recipes(group, [row for row in rows if (row.command, row.in_table2) == group])
    if pattern is None:
        print_line("All keys of one: mvkit recipe show NAME; one of your own: mvkit recipe copy NAME")


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit list datasets",
        "mvkit list datasets neuro --json",
        learn_more="mvkit fetch neural --help: recordings of the Allen Institute, and your own",
    ),
)
def datasets(pattern: Pattern = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the recordings that --dataset knows by name."""
    from mvkit.pipeline.listing import list_datasets

    rows = list_datasets(pattern, home=home_path(home))
    if as_json:
        print_json({"datasets": [asdict(row) for row in rows]})
        return
    for row in rows:
        _print_dataset(row)
    if pattern is None:
        print_line("Recordings of your own: --dataset takes the path of a neural file;")
        print_line("mvkit fetch neural --from FILE makes one of .npz, .mat, .csv, .parquet, .nwb.")


def layer_table(layers: Sequence[LayerInfo], n_images: int | None = None) -> Table:
    """Return one row per layer: its shape, its size for so many images (None: for one), its lists.

    The published list has a column of its own where it is not the default one.
    """
    size = "size/image>" if n_images is None else f"MB for {n_images} images>"
    lists_differ = any(layer.is_default != layer.is_published for layer in layers)
    table = plain_table(
        "layer", "shape>", "features>", size, "default", *(["published"] if lists_differ else [])
    )
    for layer in layers:
        n_bytes = layer.n_bytes(n_images or 1)
        table.add_row(
            layer.name,
            " x ".join(map(str, layer.shape)) or "1",
            f"{layer.n_features:,}",
            format_bytes(n_bytes) if n_images is None else f"{n_bytes / 1e6:.2f}",
            "yes" if layer.is_default else "",
            *(["yes" if layer.is_published else ""] if lists_differ else []),
        )
    return table


def _print_models(rows: Sequence[ListedModel]) -> None:
    sizes = " or ".join(map(str, dict.fromkeys(row.input_px for row in rows)))
    print_line(f"Inputs are {sizes} px (--input-size changes it); BN: batch norm.\n")
    titles = {
        "released": "Released: published weights (mvkit fetch checkpoints NAME)",
        "architecture": "Architectures: --weights random, or a file",
        "long name": "The same by the names of the paper's code, and further ones",
        "baseline": "Baselines: no weights",
    }
    columns = {"released": ("layers>", "params>", "weights"), "long name": ()}
    for group, title in titles.items():
        members = [row for row in rows if row.group == group]
        if not members:
            continue
        print_line(title)
        shown = columns.get(group, ("layers>", "params>"))
        table = plain_table("name", "what it is", *shown)
        for row in members:
            description = ", ".join(filter(None, (row.description, row.objective)))
            cells = (str(row.n_layers), _millions(row.n_parameters), row.weights)
            table.add_row(row.name, description, *cells[: len(shown)])
        print_renderable(table)
        for row in members:
            if row.checkpoint and group == "architecture":
                print_line(f"{row.name} takes the weights of {row.checkpoint}")
        print_line("")


def _millions(n_parameters: int) -> str:
    return f"{n_parameters / 1e6:.1f} M" if n_parameters else "0"


def _print_recipes(group: tuple[str, bool], rows: Sequence[ListedRecipe]) -> None:
    command, in_table2 = group
    print_line(f"{command} NAME" + (": rows of the paper's Table 2" if in_table2 else ""))
    table = plain_table("name", "what it is")
    for row in rows:
        table.add_row(row.name, row.description)
    print_renderable(table)
    print_line("")


def _print_dataset(row: ListedDataset) -> None:
    print_line(f"{row.name}: {row.description}")
    counts = []
    if row.n_units is not None:
        counts.append(f"{row.n_units:,} units")
    if row.n_animals is not None:
        counts.append(f"{row.n_animals} animals")
    if row.areas:
        counts.append(" ".join(row.areas))
    if counts:
        print_line(f"  {', '.join(counts)}")
    size = format_bytes(row.n_bytes)
    if row.is_here:
        print_line(f"  here: {row.path} ({size})")
    elif row.n_units is not None:
        print_line(f"  made when it is opened; as a file ({size}): {row.command}")
    else:
        print_line(f"  to fetch ({size}): {row.command}")
        print_line(f"  makes {row.path}")
    print_line("")
