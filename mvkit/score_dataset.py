"""The recordings of a scoring run: which, and what scores note of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import DataError
from mvkit.machine import installed_versions

if TYPE_CHECKING:
    from mvkit.neural import NeuralDataset, Recording, SelectionSettings

_NOT_FETCHED = (
    "no recordings fetched: using the embedded SIMULATED dataset, not mouse data\n"
    "for the recordings run: mvkit fetch neural --dataset neuropixels"
)


@dataclass(frozen=True)
class ChosenDataset:
    """The dataset that a command uses when none is named, and what to tell the user about it."""

    name: str
    remark: str = ""


def default_dataset(home: Path | None = None) -> ChosenDataset:
    """Choose neuropixels when it has been fetched, and the embedded simulation otherwise.

    Returns
    -------
    ChosenDataset
        With a remark naming the command that fetches the recordings when they are missing.
    """
    from mvkit.features import default_stimuli

    name = default_stimuli(home=home)
    return ChosenDataset(name, "" if name == "neuropixels" else _NOT_FETCHED)


def open_default(
    name: str | None,
    *,
    selection: SelectionSettings,
    home: Path | None = None,
    remark: Callable[[str], None],
) -> NeuralDataset:
    """Open a dataset, or the one of :func:`default_dataset` if none is named, telling the user which."""
    from mvkit.neural import open_dataset

    if name is None:
        chosen = default_dataset(home)
        name = chosen.name
        if chosen.remark:
            remark(chosen.remark)
    return open_dataset(name, selection=selection, home=home)


def choose_recordings(dataset: NeuralDataset, areas: Sequence[str] | str | None) -> tuple[Recording, ...]:
    """Return the recordings of the wanted areas, in the dataset's order.

    Raises
    ------
    UsageError
        An area the dataset does not have.
    DataError
        Nothing is left to score, with the reason for every area.
    """
    wanted = [areas] if isinstance(areas, str) else areas
    for area in wanted or ():
        if area in dataset.skipped and area not in dataset.areas:
            raise DataError(f"area {area} of {dataset.name}: {dataset.skipped[area]}")
    chosen = dataset.recordings if wanted is None else dataset.in_areas(wanted).recordings
    if not chosen:
        reasons = "; ".join(f"{area}: {why}" for area, why in dataset.skipped.items())
        raise DataError(
            f"{dataset.name}: no unit passes the selection ({reasons or 'the file has no units'})"
        )
    return chosen


def dataset_context(dataset: NeuralDataset) -> dict[str, object]:
    """Return what scores and ceilings note of the dataset they come from."""
    return {
        "dataset": dataset.name,
        "selection": dict(dataset.selection),
        "skipped_areas": dict(dataset.skipped),
        "dataset_provenance": dict(dataset.provenance),
        "versions": installed_versions("torch", "torchvision", "pillow", "h5py"),
    }
