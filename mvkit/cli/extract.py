"""``mvkit extract``: what the layers of a model give for a set of images, or its weights, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvkit.cli.console import (
    DEVICE_HELP,
    MACHINE,
    Acuity,
    Contrast,
    FieldOfView,
    FrameRate,
    Grey,
    HomeOption,
    InputSize,
    JsonOption,
    Mean,
    Std,
    check_network,
    check_stimuli,
    complete_datasets,
    complete_models,
    help_epilog,
    home_path,
    input_options,
    note,
    print_json,
    print_line,
    print_renderable,
    progress_bar,
    split_commas,
    viewing_conditions,
)
from mvkit.cli.list import layer_table
from mvkit.errors import UsageError

if TYPE_CHECKING:
    from mvkit.features import ExtractionReport
    from mvkit.models.exporting import ExportReport


#: The end of ``mvkit extract --help``.
EPILOG = help_epilog(
    "mvkit extract gabor --stimuli simulated --out gabor.h5",
    "mvkit extract alexnet_bn_ir --layers 'features.*' --stimuli my_images --out alexnet.npz",
    "mvkit extract runs/demo --export-weights demo.safetensors",
    learn_more="docs/howto/other-programs.md: feature files; docs/howto/own-network.md: own networks",
)


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Released model, architecture, baseline (pixels, gabor), a training run's folder or "
            "checkpoint, or a model from elsewhere: torchvision:NAME, timm:NAME, package.module:FUNCTION, "
            "FILE.py:FUNCTION. All: mvkit list models.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ],
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            "-l",
            metavar="PATTERN",
            help="Layer names, globs (features.*), with commas between, or re:REGEX; NAME=a+b joins layers. "
            "All: mvkit list layers MODEL.",
            show_default="published, the list of the paper's code; of vgg16_encoder its five pools",
        ),
    ] = None,
    stimuli: Annotated[
        str | None,
        typer.Option(
            "--stimuli",
            "-s",
            metavar="DATASET|FOLDER",
            help="neuropixels, calcium, simulated, a neural file, or a folder of images.",
            show_default="neuropixels if fetched, else simulated",
            autocompletion=complete_datasets,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The feature file to write: .h5 or .npz."),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="h5|npz",
            help="HDF5, or NumPy's archive.",
            show_default="as FILE is named",
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
            metavar="NAME|FILE",
            help="released, random, DEFAULT (torchvision, timm), the path of a checkpoint, PATH:KEY for the "
            "weights under a key in it (dino.pth:teacher), or ENTRY=PATH.",
        ),
    ] = "released",
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of random weights.", show_default="0, or a training run's own"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Images per forward pass; fewer need less memory.",
            show_default="32 at 64 px; at 224 px 2 to 16, each layer's output within 32 MB",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(metavar="NAME", help=DEVICE_HELP, rich_help_panel=MACHINE),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="CPU threads.", show_default="torch's choice", rich_help_panel=MACHINE
        ),
    ] = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    grey: Grey = False,
    acuity: Acuity = None,
    field_of_view: FieldOfView = None,
    contrast: Contrast = None,
    frame_rate: FrameRate = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what a model's layers give for a set of images, all layers in one pass."""
    # All of it before torch is imported, which takes seconds.
    from mvkit.files import check_output_path
    from mvkit.models.names import check_export, check_inputs

    viewing = viewing_conditions(acuity, field_of_view, contrast)
    check_network([model], weights=weights, layers=split_commas(layers), home=home, device=device)
    target = export_weights or out
    if target is None:
        raise UsageError(
            "extract needs --out FILE (.h5 or .npz) for features, or --export-weights FILE.safetensors\n"
            f"what there is to extract: mvkit list layers {model}"
        )
    if export_weights is not None:
        beside = {
            "--out": out,
            "--layers": layers,
            "--stimuli": stimuli,
            "--format": file_format,
            "--acuity": acuity,
            "--contrast": contrast,
            "--frame-rate": frame_rate,
        }
        _refuse_beside_export([option for option, value in beside.items() if value])
        check_export(model, target, overwrite=force)
    else:
        from mvkit.features.feature_file import feature_path

        check_output_path(feature_path(target, file_format), overwrite=force, example="features.h5")
        check_stimuli(stimuli, home=home_path(home))
    inputs = input_options(input_size, mean, std, grey=grey, viewing=viewing)
    check_inputs(model, inputs)
    from mvkit.features.extraction import ExtractRequest, run_export, run_extract

    request = ExtractRequest(
        model=model,
        layers=split_commas(layers),
        stimuli=stimuli,
        weights=weights,
        seed=seed,
        batch_size=batch_size,
        device=device,
        threads=threads,
        inputs=inputs,
        home=home_path(home),
        format=file_format,
        frame_rate_hz=frame_rate,
    )
    if export_weights is not None:
        _print_export(run_export(request, target, overwrite=force), as_json=as_json)
        return
    with progress_bar("images") as progress:
        report = run_extract(request, target, overwrite=force, log=note, progress=progress)
    if as_json:
        print_json(report.to_json())
        return
    print_line(_headline(report))
    print_renderable(layer_table(report.layers, report.n_images))
    print_line(f"wrote {report.path}")


def _refuse_beside_export(options: list[str]) -> None:
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
    weights = "no weights" if source.weights_id == "none" else source.weights_id
    return f"{source.model_name}, {weights}; {report.n_images} images of {source.stimuli}"
