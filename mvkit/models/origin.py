"""What is known of a model's weights besides their values: for the files that they are exported to."""

from __future__ import annotations

import os
from pathlib import Path

from mvkit.models.base import WeightsOrigin
from mvkit.models.released import PAPER, ModelRow

#: Of published weights; neither their files nor the paper state one.
UNSTATED_LICENCE = "not stated with the published files: ask their authors before passing them on"


def released_origin(row: ModelRow) -> WeightsOrigin:
    """Describe published weights, or a baseline, which has none."""
    if row.released is None:
        return WeightsOrigin(row.architecture.name)
    return WeightsOrigin(
        row.architecture.name,
        source=row.released.url,
        citation=row.released.citation,
        licence=UNSTATED_LICENCE,
    )


def random_origin(architecture: str, seed: int) -> WeightsOrigin:
    """Describe weights as drawn for a new network."""
    return WeightsOrigin(architecture, source=f"random, seed {seed}", citation=(PAPER,))


def foreign_origin(name: str, weights: str | os.PathLike[str], seed: int) -> WeightsOrigin:
    """Describe the weights of a model from elsewhere, called ``name``."""
    entry, equals, file = os.fspath(weights).partition("=")
    if Path(weights).is_file():
        source = f"file {Path(weights).name}"
    elif equals and Path(file).is_file():
        source = f"file {Path(file).name}, settings of {entry}"
    elif weights == "random":
        source = f"random, seed {seed}"
    else:
        source = name if weights == "released" else f"{name}, weights {weights}"
    return WeightsOrigin(name, source=source)


def file_origin(architecture: str, path: Path) -> WeightsOrigin:
    """Describe weights of a file that does not say where it comes from."""
    return WeightsOrigin(architecture, source=f"file {path.name}", citation=(PAPER,))
