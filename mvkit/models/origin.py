"""What is known of a model's weights besides their values: for the files that they are exported to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mvkit.models.released import PAPER, ModelRow

#: Of published weights; neither their files nor the paper state one.
UNSTATED_LICENCE = "not stated with the published files: ask their authors before passing them on"


@dataclass(frozen=True)
class WeightsOrigin:
    """Where weights come from; what is not known is empty.

    Attributes
    ----------
    architecture
        The architecture's long name.
    source
        Address of the published file, the training run with its recipe's digest, the seed they were drawn
        with, or the name of the file they were read from.
    citation
        Papers to cite.
    licence
        Terms under which the weights may be passed on, where they are not the user's own.
    training_run
        What a checkpoint of ``mvkit train`` says of its network; empty for other weights.
    checkpoint
        Which checkpoint of a training run they are, in words: file, epoch, and by what it is the best.
    """

    architecture: str = ""
    source: str = ""
    citation: tuple[str, ...] = ()
    licence: str = ""
    training_run: Mapping[str, object] = field(default_factory=dict)
    checkpoint: str = ""


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
