"""Options of ``mvkit score``, by the panels of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_PROTOCOL = "Protocol"
_RESULTS = "Ceiling, comparison, layers"
_SELECTION = "Selection of units"
_MACHINE = "Machine"
_SWEEPS = "Several machines"

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="Released models, architectures, baselines (pixels, gabor), training runs' checkpoints, or "
        "models from elsewhere: torchvision:NAME, timm:NAME, package.module:FUNCTION, FILE.py:FUNCTION.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "-l",
        metavar="PATTERN",
        help="Layer names or globs, for every model, or published: the list of the paper's code. "
        "Default: the same list, but for vgg16_encoder its five pools.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", "-d", help="neuropixels, calcium, simulated, or the path of a neural file."),
]
Areas = Annotated[
    list[str] | None, typer.Option("--areas", "-a", metavar="AREA", help="VISp, VISl, ...; default: all.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Write CSV, Parquet and summary.json here."),
]
Figure = Annotated[
    Path | None,
    typer.Option("--figure", metavar="FILE", help="Draw scores, intervals and ceiling; .svg, .png or .pdf."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only say what the run needs: layers, fits, memory, disk; exit 1 if it does not fit.",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="released, random, DEFAULT (torchvision, timm), the path of a checkpoint, or ENTRY=PATH."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of random weights; default: 0, or a training run's own.", show_default=False),
]

Recipe = Annotated[
    str | None,
    typer.Option(help="paper, honest, quick, or the path of a scoring recipe.", rich_help_panel=_PROTOCOL),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.", rich_help_panel=_PROTOCOL),
]
Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        metavar="NAME",
        help="pls (paper), ridge, one-to-one, lasso, elasticnet, rsa or cka.",
        rich_help_panel=_PROTOCOL,
    ),
]
Splits = Annotated[
    int | None, typer.Option(min=1, help="Image splits (paper: 10).", rich_help_panel=_PROTOCOL)
]
Halves = Annotated[
    int | None, typer.Option(min=1, help="Trial halvings (paper: 100).", rich_help_panel=_PROTOCOL)
]
Halving = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="split-half (paper), bootstrap, bootstrap-full-mean, subsample-half or "
        "subsample-half-replacement.",
        rich_help_panel=_PROTOCOL,
    ),
]
Correlation = Annotated[
    str | None, typer.Option(metavar="NAME", help="pearson (paper) or spearman.", rich_help_panel=_PROTOCOL)
]
Correction = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="spearman-brown-denominator (paper), spearman-brown-ratio, attenuation or none.",
        rich_help_panel=_PROTOCOL,
    ),
]
Estimator = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="mean-of-corrected (paper), or corrected-mean, which drops no halving.",
        rich_help_panel=_PROTOCOL,
    ),
]
PlsStopping = Annotated[
    str | None,
    typer.Option(help="reference, or converged (free of unit order).", rich_help_panel=_PROTOCOL),
]
Parity = Annotated[
    bool,
    typer.Option(
        "--parity", help="Keep the old arithmetic of two negative reliabilities.", rich_help_panel=_PROTOCOL
    ),
]

Ceiling = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Consistency between animals: holdout (the others pooled), pairwise or none.",
        rich_help_panel=_RESULTS,
    ),
]
EqualUnits = Annotated[
    bool,
    typer.Option(
        "--equal-units", help="Ceiling from equally many units of each source.", rich_help_panel=_RESULTS
    ),
]
Extrapolate = Annotated[
    str | None,
    typer.Option(
        metavar="OVER",
        help="Follow the ceiling over the number of units or stimuli.",
        rich_help_panel=_RESULTS,
    ),
]
LayerChoice = Annotated[
    str | None,
    typer.Option(
        "--layer-choice",
        metavar="NAME",
        help="Which best layers are the headline: paper (chosen on the test images) or held-out.",
        rich_help_panel=_RESULTS,
    ),
]
Against = Annotated[
    list[Path] | None,
    typer.Option(
        "--against",
        metavar="DIR",
        help="Compare with scores saved by --out, of the same protocol.",
        rich_help_panel=_RESULTS,
    ),
]

Selection = Annotated[
    str,
    typer.Option(
        help="code (reliability 0.5), paper (0.3, perhaps a misreading: not checked against the paper's "
        "text), or none.",
        rich_help_panel=_SELECTION,
    ),
]
MinReliability = Annotated[
    float | None,
    typer.Option(help="Lowest split-half reliability of a unit.", rich_help_panel=_SELECTION),
]
MinMedianReliability = Annotated[
    float | None,
    typer.Option(help="Lowest median reliability of a time bin.", rich_help_panel=_SELECTION),
]
RunP = Annotated[
    float | None,
    typer.Option(help="Highest p of running modulation that drops a unit.", rich_help_panel=_SELECTION),
]
MinUnits = Annotated[
    str | None,
    typer.Option(help="Fewest units of an animal: q3, median, none or a number.", rich_help_panel=_SELECTION),
]
TimeWindow = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="FIRST LAST",
        help="Average these bins (centres, seconds after onset) and not the reliable ones.",
        rich_help_panel=_SELECTION,
    ),
]

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, help="Worker processes; default: all cores.", rich_help_panel=_MACHINE
    ),
]
Device = Annotated[
    str, typer.Option(help="Where features are extracted: cpu, cuda, ...", rich_help_panel=_MACHINE)
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Images per forward pass; default: by the size of the inputs.", rich_help_panel=_MACHINE
    ),
]
Scratch = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where features lie that do not fit in memory; default: mvkit's cache.",
        rich_help_panel=_MACHINE,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Neither use cached results nor cache new ones.", rich_help_panel=_MACHINE
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Run the fits on the dask cluster of this scheduler: tcp://HOST:8786.",
        rich_help_panel=_SWEEPS,
    ),
]
ShardPart = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Score part I of N into the cache only; the same command without --shard then finishes.",
        rich_help_panel=_SWEEPS,
    ),
]
