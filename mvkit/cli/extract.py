"""``mvkit extract``: what the layers of a model give for a set of images, or its weights, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvkit.cli.console import (
    Grey,
    HomeOption,
    InputSize,
    JsonOption,
    Mean,
    Std,
    input_options,
    note,
    print_json,
    print_line,
    print_renderable,
    progress_bar,
)

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.features import ExtractionReport, LayerInfo
    from mvkit.models.exporting import ExportReport

_MACHINE = "Machine"


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Released model, architecture, baseline (pixels, gabor), a training run's checkpoint, or a "
            "model from elsewhere: torchvision:NAME, timm:NAME, package.module:FUNCTION, FILE.py:FUNCTION.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            "-l",
            metavar="PATTERN",
            help="Layer names, globs (features.*), re:REGEX, or published: the list of the paper's code. "
            "Default: the same list, but for vgg16_encoder its five pools.",
        ),
    ] = None,
    stimuli: Annotated[
        str | None,
        typer.Option(
            "--stimuli",
            "-s",
            metavar="DATASET|FOLDER",
            help="neuropixels, calcium, simulated, a neural file, or a folder of images.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The feature file to write.")
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="h5|npz",
            help="HDF5, or NumPy's archive; default: npz if FILE is named *.npz, else h5.",
        ),
    ] = None,
    export_weights: Annotated[
        Path | None,
        typer.Option(
            "--export-weights",
            metavar="FILE.safetensors",
            help="Write the model's weights with their provenance and preprocessing instead of features.",
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="released, random, DEFAULT (torchvision, timm), the path of a checkpoint, or ENTRY=PATH."
        ),
    ] = "released",
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of random weights; default: 0, or a training run's own.", show_default=False),
    ] = None,
    list_layers: Annotated[
        bool,
        typer.Option(
            "--list-layers",
            help="Show every layer with its shape and size; write nothing. Only modules are layers, not "
            "functions that a forward calls (F.relu, +).",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    show_info: Annotated[
        bool, typer.Option("--cache-info", help="Show what is kept of earlier runs; needs no MODEL.")
    ] = False,
    prune_rule: Annotated[
        str | None,
        typer.Option(
            "--cache-prune",
            metavar="RULE",
            help="Remove what is kept: all, unused for an age (30d, 12h), or down to a size (5GB).",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images per forward pass; default: by the size of the inputs.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...", rich_help_panel=_MACHINE)] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads; default: torch's choice.", rich_help_panel=_MACHINE),
    ] = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    grey: Grey = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what a model's layers give for a set of images, all layers in one pass."""
    if show_info or prune_rule is not None:
        from mvkit.cli.cache import show_cache

        asked = {"MODEL": model, "--out": out, "--layers": layers, "--stimuli": stimuli}
        show_cache(prune_rule, home=Path(home) if home else None, beside=asked, as_json=as_json)
        return
    if model is None:
        from mvkit.errors import UsageError

        raise UsageError("Missing argument 'MODEL'.\nmodels: mvkit extract --help; the cache: --cache-info")
    from mvkit.cli.console import split_commas
    from mvkit.machine import check_device
    from mvkit.models.names import check_models

    # Before torch is imported, which takes seconds.
    check_models([model], weights=weights, layers=split_commas(layers), home=Path(home) if home else None)
    check_device(device)
    from mvkit.features.extraction import ExtractRequest, list_model_layers, run_extract

    request = ExtractRequest(
        model=model,
        layers=split_commas(layers),
        stimuli=stimuli,
        weights=weights,
        seed=seed,
        batch_size=batch_size,
        device=device,
        threads=threads,
        inputs=input_options(input_size, mean, std, grey=grey),
        home=Path(home) if home else None,
        format=file_format,
    )
    if export_weights is not None:
        from mvkit.features.extraction import run_export

        beside = {
            "--out": out,
            "--layers": layers,
            "--stimuli": stimuli,
            "--format": file_format,
            "--list-layers": list_layers,
        }
        _refuse_beside_export([option for option, value in beside.items() if value])
        _print_export(run_export(request, export_weights, overwrite=force), as_json=as_json)
        return
    if list_layers:
        listing = list_model_layers(request, log=note)
        if as_json:
            print_json(listing.to_json())
            return
        if listing.network:
            print_line(f"{listing.model}: {listing.network}")
        print_renderable(_layer_table(listing.layers, listing.n_images))
        for name, reason in listing.left_out.items():
            print_line(f"not tappable: {name}: {reason}")
        return
    with progress_bar("images") as progress:
        report = run_extract(request, out, overwrite=force, log=note, progress=progress)
    if as_json:
        print_json(report.to_json())
        return
    print_line(_headline(report))
    print_renderable(_layer_table(report.layers, report.n_images))
    print_line(f"wrote {report.path}")


def _refuse_beside_export(options: list[str]) -> None:
    from mvkit.errors import UsageError

    if options:
        raise UsageError(
            f"--export-weights writes weights and no features: leave out {', '.join(options)}, or run twice"
        )


def _print_export(report: ExportReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
        return
    texts = report.metadata
    print_line(f"{texts['model']} ({texts['weights_id']}), {report.n_tensors} tensors")
    print_line(f"wrote {report.path}")


def _headline(report: ExtractionReport) -> str:
    source = report.provenance
    return f"{source.model_name} ({source.weights_id}), {report.n_images} images of {source.stimuli}"


def _layer_table(layers: tuple[LayerInfo, ...], n_images: int) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("layer")
    for title in ("shape", "features", f"MB for {n_images} images"):
        table.add_column(title, justify="right")
    table.add_column("published")
    lists_differ = any(layer.is_default != layer.is_published for layer in layers)
    if lists_differ:
        table.add_column("default")
    for layer in layers:
        table.add_row(
            layer.name,
            " x ".join(map(str, layer.shape)) or "1",
            str(layer.n_features),
            f"{layer.n_bytes(n_images) / 1e6:.2f}",
            "yes" if layer.is_published else "",
            *(["yes" if layer.is_default else ""] if lists_differ else []),
        )
    return table
