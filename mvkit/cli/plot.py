"""``mvkit plot``: figures of scores, training runs, recordings."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from mvkit.cli.console import (
    MACHINE,
    Acuity,
    Command,
    Contrast,
    FieldOfView,
    HomeOption,
    InputSize,
    JsonOption,
    SelectionPreset,
    check_network,
    check_stimuli,
    complete_areas,
    complete_datasets,
    complete_models,
    help_epilog,
    home_path,
    input_options,
    print_json,
    print_line,
    viewing_conditions,
)
from mvkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from mvkit.report.figures import FigureStyle
    from mvkit.scoring import Scores


class _Kinds(TyperGroup):
    """The kinds of figures, with an epilog that keeps its lines."""

    format_epilog = Command.format_epilog


app = typer.Typer(
    cls=_Kinds,
    help="Draw figures fit for a journal: of saved scores, training runs, recordings.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

#: The end of ``mvkit plot --help``.
EPILOG = help_epilog(
    "mvkit score gabor pixels --dataset simulated --splits 2 --halves 10 --out scores",
    "mvkit plot areas scores --out areas.pdf --columns 1",
    "mvkit plot training runs/* --out training.png",
    learn_more="mvkit plot KIND --help",
)
_FIGURE = "Figure"


class LayerChoice(StrEnum):
    """How the layer of each area is chosen."""

    PAPER = "paper"
    HELD_OUT = "held-out"


class HierarchyValue(StrEnum):
    """What is drawn over the hierarchy of areas."""

    SCORE = "score"
    DEPTH = "depth"


Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="The figure: .png, .pdf or .svg.",
        show_default=False,
        rich_help_panel=_FIGURE,
    ),
]
Width = Annotated[
    float | None,
    typer.Option(
        metavar="INCHES",
        help="Default: one or two columns, as the figure needs.",
        show_default=False,
        rich_help_panel=_FIGURE,
    ),
]
Columns = Annotated[
    int | None,
    typer.Option(
        metavar="1|2",
        min=1,
        max=2,
        help="Width of one or two columns of a journal: 3.5 or 7.2 in.",
        show_default=False,
        rich_help_panel=_FIGURE,
    ),
]
Dpi = Annotated[
    int,
    typer.Option(metavar="N", min=10, max=2400, help="Dots per inch of .png.", rich_help_panel=_FIGURE),
]
NoTitle = Annotated[
    bool,
    typer.Option(
        "--no-title",
        help="Leave out title and small print; they are printed for the caption.",
        rich_help_panel=_FIGURE,
    ),
]
Text = Annotated[
    bool,
    typer.Option(
        "--text", help="Text of .svg as text, which can be edited; else outlines.", rich_help_panel=_FIGURE
    ),
]
RunFolders = Annotated[
    list[Path],
    typer.Argument(metavar="RUNDIR...", help="Folders that mvkit score --out wrote.", show_default=False),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Only this one of the saved models; can be repeated, in the order to draw.",
        show_default=False,
    ),
]
Choice = Annotated[
    LayerChoice | None,
    typer.Option(help="How each area's layer is chosen; default: as scored.", show_default=False),
]
Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="neuropixels, calcium, simulated, or the path of a neural file.",
        autocompletion=complete_datasets,
        show_default=False,
    ),
]
Selection = Annotated[SelectionPreset, typer.Option(help="Units of this selection; its threshold.")]
Weights = Annotated[str, typer.Option(metavar="NAME|FILE", help="As for score.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Seed of random weights.", show_default=False)]
Layer = Annotated[
    str | None,
    typer.Option("--layer", "-l", metavar="NAME", help="Layer of the model.", show_default=False),
]
Area = Annotated[
    str,
    typer.Option(
        "--area",
        "-a",
        metavar="AREA",
        help="VISp, VISl, ...",
        autocompletion=complete_areas,
        show_default=False,
    ),
]
Device = Annotated[
    str,
    typer.Option(metavar="NAME", help="Where features are extracted: cpu, cuda.", rich_help_panel=MACHINE),
]


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot areas scores --out areas.pdf --columns 2",
        "mvkit plot areas runs/gabor runs/pixels --out areas.svg --text --no-title",
        learn_more="mvkit score --help: --ceiling adds the ceiling, --out writes RUNDIR",
    ),
)
def areas(
    *,
    folders: RunFolders,
    models: Models = None,
    choice: Choice = None,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    as_json: JsonOption = False,
) -> None:
    """Draw models by area, with animals and ceiling.

    Bars are medians over units with their intervals, points are animals.
    """
    style = _style(out, width, columns, no_title=no_title)
    from mvkit.report.figures import draw_areas, read_runs

    saved = read_runs(folders)
    figure = draw_areas(_chosen(saved.models, models), saved.ceiling, choice=choice, style=style)
    _save(figure, out, dpi, text=text, as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot layers scores --model 'alexnet_bn_ir (random, seed 0)' --out layers.pdf",
        "mvkit plot layers scores --out depth.pdf",
        learn_more="mvkit list layers MODEL",
    ),
)
def layers(
    *,
    folders: RunFolders,
    models: Models = None,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the median of every layer, by area.

    Layers of one model are named; those of several stand at their relative depth.
    """
    style = _style(out, width, columns, no_title=no_title)
    from mvkit.report.figures import draw_layers, read_runs

    saved = read_runs(folders)
    figure = draw_layers(_chosen(saved.models, models), saved.ceiling, style=style)
    _save(figure, out, dpi, text=text, as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot units scores --model pixels --model gabor --out units.pdf",
        learn_more="the first model is on the x axis",
    ),
)
def units(
    *,
    folders: RunFolders,
    models: Models = None,
    choice: Choice = None,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    as_json: JsonOption = False,
) -> None:
    """Draw one model against another, a point per unit."""
    style = _style(out, width, columns, no_title=no_title)
    from mvkit.report.figures import draw_units, read_runs

    chosen = _chosen(read_runs(folders).models, models)
    if len(chosen) != 2:
        names = ", ".join(f"'{name}'" for name in chosen)
        raise UsageError(
            f"units: two models are drawn, here are {len(chosen)}: {names}\nname two with --model"
        )
    _save(draw_units(chosen, choice=choice, style=style), out, dpi, text=text, as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot hierarchy scores --out hierarchy.pdf",
        "mvkit plot hierarchy scores --value depth --out depth.pdf",
        learn_more="hierarchy scores: Harris et al. 2019, as used by Siegle et al. 2021",
    ),
)
def hierarchy(
    *,
    folders: RunFolders,
    value: Annotated[
        HierarchyValue, typer.Option(help="Median score, or relative depth of the best layer.")
    ] = HierarchyValue.SCORE,
    models: Models = None,
    choice: Choice = None,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    as_json: JsonOption = False,
) -> None:
    """Draw scores over the anatomical hierarchy of areas.

    Or, with --value depth, where the best layer of each area stands in the network.
    """
    style = _style(out, width, columns, no_title=no_title)
    from mvkit.report.figures import draw_hierarchy, read_runs

    chosen = _chosen(read_runs(folders).models, models)
    figure = draw_hierarchy(chosen, value=value, choice=choice, style=style)
    _save(figure, out, dpi, text=text, as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot training runs/* --out training.pdf",
        learn_more="docs/concepts/training.md: evaluations of a run",
    ),
)
def training(
    *,
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders that mvkit train wrote, finished or not.", show_default=False
        ),
    ],
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    as_json: JsonOption = False,
) -> None:
    """Draw loss and predictivity over the epochs of runs.

    Every evaluation of the runs has a panel.
    """
    style = _style(out, width, columns, no_title=no_title)
    from mvkit.report.figures import draw_training, label_runs, read_training_log

    logs = {name: read_training_log(folder) for name, folder in label_runs(runs).items()}
    _save(draw_training(logs, style=style), out, dpi, text=text, as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot reliability neuropixels --out reliability.pdf",
        "mvkit plot reliability neuropixels --fraction --out fraction.pdf",
        learn_more="mvkit fetch reliability --help: measures them",
    ),
)
def reliability(
    *,
    dataset: Dataset,
    fraction: Annotated[
        bool, typer.Option("--fraction", help="Divide each area's curve by its maximum.")
    ] = False,
    selection: Selection = SelectionPreset.CODE,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the reliability of areas over time bins.

    Medians of split-half reliabilities over the selected units.
    """
    style = _style(out, width, columns, no_title=no_title)
    from mvkit.neural.open import read_unit_facts
    from mvkit.report.figures import draw_reliability

    name, facts = read_unit_facts(dataset, home=home_path(home))
    figure = draw_reliability(facts, dataset=name, selection=selection, fraction=fraction, style=style)
    _save(figure, out, dpi, text=text, as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot histogram neuropixels --out histogram.pdf",
        learn_more="mvkit fetch reliability --help: measures reliabilities",
    ),
)
def histogram(
    *,
    dataset: Dataset,
    selection: Selection = SelectionPreset.CODE,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw how reliable units are, by area.

    The threshold of the selection is drawn too.
    """
    style = _style(out, width, columns, no_title=no_title)
    from mvkit.neural.open import read_unit_facts
    from mvkit.report.figures import draw_reliability_histogram

    name, facts = read_unit_facts(dataset, home=home_path(home))
    figure = draw_reliability_histogram(facts, dataset=name, selection=selection, style=style)
    _save(figure, out, dpi, text=text, as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot rdm gabor --area VISp --dataset simulated --out rdm.pdf",
        learn_more="mvkit score --map rsa: similarities corrected for noise",
    ),
)
def rdm(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Any model that score takes.",
            autocompletion=complete_models,
            show_default=False,
        ),
    ],
    area: Area,
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME|FILE",
            help="neuropixels, calcium, simulated, or a neural file.",
            autocompletion=complete_datasets,
            show_default=False,
        ),
    ],
    layer: Layer = None,
    selection: Selection = SelectionPreset.CODE,
    weights: Weights = "released",
    seed: Seed = None,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    device: Device = "auto",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the RDMs of an area and a layer side by side.

    Images are in the same order in both representational dissimilarity matrices.
    """
    style = _style(out, width, columns, no_title=no_title)
    check_network([model], weights=weights, layers=layer, home=home, device=device)
    from mvkit.pipeline.listing import check_areas

    check_areas(dataset, [area], home=home_path(home))
    from mvkit.pipeline.plots import ModelLayer, compare_rdms
    from mvkit.report.figures import draw_rdms

    source = ModelLayer(model, layer, weights, seed, device)
    rdms = compare_rdms(source, dataset, area=area, selection=selection, home=home_path(home))
    _save(draw_rdms(rdms, style=style), out, dpi, text=text, as_json=as_json)


@app.command(
    "input",
    cls=Command,
    epilog=help_epilog(
        "mvkit plot input alexnet_bn_ir --weights random --stimuli simulated --acuity 0.5 --out seen.png",
        "mvkit plot input pixels --stimuli photos --acuity 0.5 --contrast 0.8 --out seen.pdf",
        learn_more="docs/howto/mouse-like-stimuli.md",
    ),
)
def draw_input(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Any model that score takes.",
            autocompletion=complete_models,
            show_default=False,
        ),
    ],
    stimuli: Annotated[
        str,
        typer.Option(
            "--stimuli",
            "-s",
            metavar="DATASET|FOLDER",
            help="neuropixels, calcium, simulated, a neural file, or a folder of images.",
            autocompletion=complete_datasets,
            show_default=False,
        ),
    ],
    images: Annotated[int, typer.Option("--images", metavar="N", min=1, max=8, help="How many.")] = 3,
    acuity: Acuity = None,
    field_of_view: FieldOfView = None,
    contrast: Contrast = None,
    input_size: InputSize = None,
    weights: Weights = "released",
    seed: Seed = None,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw images as a network sees them.

    As they are, as an animal of some acuity sees them, and as the network's input.
    """
    style = _style(out, width, columns, no_title=no_title)
    viewing = viewing_conditions(acuity, field_of_view, contrast)
    inputs = input_options(input_size, None, None, grey=False, viewing=viewing)
    check_network([model], weights=weights, layers=None, home=home, device="cpu")
    check_stimuli(stimuli, home=home_path(home))
    from mvkit.models.names import check_inputs

    check_inputs(model, inputs)
    from mvkit.pipeline.plots import read_inputs
    from mvkit.report.figures import draw_inputs

    shown = read_inputs(
        model,
        stimuli,
        weights=weights,
        seed=seed,
        inputs=inputs,
        n_images=images,
        home=home_path(home),
    )
    _save(draw_inputs(shown, style=style), out, dpi, text=text, as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit plot unit simulated --area VISp --model gabor --out unit.pdf",
        "mvkit plot unit neuropixels --area VISp --animal 717038288 --unit 950911932 --out unit.pdf",
        learn_more="units.csv in the folder of mvkit score --out lists units with their animals",
    ),
)
def unit(
    *,
    dataset: Dataset,
    area: Area,
    animal: Annotated[
        int | None,
        typer.Option(metavar="ID", help="Default: any with the unit.", show_default=False),
    ] = None,
    unit_id: Annotated[
        int | None,
        typer.Option("--unit", metavar="ID", help="Default: the most reliable one.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Draw its predictions too.",
            autocompletion=complete_models,
            show_default=False,
        ),
    ] = None,
    layer: Layer = None,
    weights: Weights = "released",
    seed: Seed = None,
    out: Out,
    width: Width = None,
    columns: Columns = None,
    dpi: Dpi = 300,
    no_title: NoTitle = False,
    text: Text = False,
    device: Device = "auto",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw one unit: tuning, time course, prediction.

    With pictures of the images of its largest and smallest responses.
    """
    style = _style(out, width, columns, no_title=no_title)
    if model is not None:
        check_network([model], weights=weights, layers=layer, home=home, device=device)
    elif layer is not None:
        raise UsageError("--layer: of which model? add --model MODEL")
    from mvkit.pipeline.listing import check_areas

    check_areas(dataset, [area], home=home_path(home))
    from mvkit.pipeline.plots import ModelLayer, read_unit
    from mvkit.report.figures import draw_unit

    source = None if model is None else ModelLayer(model, layer, weights, seed, device)
    shown = read_unit(
        dataset, area=area, specimen=animal, unit_id=unit_id, source=source, home=home_path(home)
    )
    _save(draw_unit(shown, style=style), out, dpi, text=text, as_json=as_json)


def _style(out: Path, width: float | None, columns: int | None, *, no_title: bool) -> FigureStyle:
    """Check the file before any work, and return the style."""
    from mvkit.report.figures.style import COLUMN_WIDTHS_IN, FigureStyle, check_figure

    if width is not None and columns is not None:
        raise UsageError("--width and --columns both say how wide the figure is: give one of them")
    check_figure(out)
    return FigureStyle(COLUMN_WIDTHS_IN[columns] if columns else width, titles=not no_title)


def _chosen(saved: Mapping[str, Scores], names: list[str] | None) -> Mapping[str, Scores]:
    """Return the models asked for, in the order asked for."""
    from mvkit.errors import unknown_name

    for name in names or ():
        if name not in saved:
            raise unknown_name("saved model", name, saved)
    return saved if not names else {name: saved[name] for name in names}


def _save(figure: Figure, out: Path, dpi: int, *, text: bool, as_json: bool) -> None:
    from mvkit.report.figures import caption_of, save_figure

    width, height = figure.get_size_inches()
    save_figure(figure, out, dpi=dpi, text=text)
    if as_json:
        print_json({"file": str(out), "width_in": width, "height_in": height, "caption": caption_of(figure)})
        return
    print_line(f"wrote {out} ({width:.1f} x {height:.1f} in)")
    print_line(f"caption: {caption_of(figure)}")
