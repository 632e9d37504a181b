"""The main job in one call: features of a model, responses of a dataset, noise-corrected scores.

This is the only library module that knows every stage. Scoring itself
(:mod:`mvkit.scoring`) sees arrays only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.errors import DataError, UsageError
from mvkit.versions import installed_versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from mvkit.features import FeatureSet
    from mvkit.neural import NeuralDataset, Recording
    from mvkit.scoring import Scores, ScoreSettings

Progress = Callable[[int, int], None]

#: Names the command line uses for two settings; accepted as keywords too.
_SHORT_SETTINGS = {"splits": "n_splits", "halves": "n_halves"}

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


def score(
    features_or_model: FeatureSet | nn.Module | Mapping[str, NDArray[np.floating[Any]]] | str | Path,
    dataset: NeuralDataset | str | Path,
    layers: Sequence[str] | str | None = None,
    areas: Sequence[str] | str | None = None,
    mapping: str = "pls",
    *,
    n_jobs: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    **settings: object,
) -> Scores:
    """Score how well layers predict every unit of a dataset, corrected for noise.

    Parameters
    ----------
    features_or_model
        A model (its layers are extracted from the dataset's stimuli in one pass), the name of one
        (released weights where there are any), the path of a training run's checkpoint, a
        :class:`~mvkit.features.FeatureSet`, or a mapping from layer to float array
        (n_images, n_features) in the order of the dataset's images.
    dataset
        A dataset, the name of one, or the path of a neural file (default selection of units).
    layers
        Names or patterns; None means the model's published layers, or every layer of given features.
    areas
        Area acronyms, e.g. ``["VISp", "VISl"]``; None means all.
    mapping
        ``"pls"``.
    n_jobs
        Worker processes; None means one per core. The result does not depend on it.
    device
        Where features are extracted, e.g. ``"cuda"``.
    progress
        Called with (done, total) fits.
    **settings
        Fields of :class:`~mvkit.scoring.ScoreSettings`, for instance ``n_splits=2, n_halves=10``
        (``splits`` and ``halves`` are understood too), or ``settings=ScoreSettings(...)``.

    Returns
    -------
    Scores
        One row per layer, area, specimen and unit; see :class:`~mvkit.scoring.Scores`.

    Raises
    ------
    UsageError
        An unknown model, layer, area or setting.
    DataError
        Features and responses are not of the same images.

    Notes
    -----
    Protocol of Nayebi, Kong et al. 2023, PLOS Comput Biol 19(10):e1011506, Methods,
    "Neural response prediction".
    """
    from mvkit.neural import open_dataset
    from mvkit.scoring import score_features

    base = settings.pop("settings", None)
    resolved = merge_settings(base, {"mapping": mapping, **settings} if base is None else settings)
    opened = open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
    recordings = choose_recordings(opened, areas)
    features, about = _features_of(features_or_model, opened, layers, device=device)
    context = {
        **about,
        "dataset": opened.name,
        "selection": dict(opened.selection),
        "skipped_areas": dict(opened.skipped),
        "dataset_provenance": dict(opened.provenance),
        "versions": installed_versions("torch", "torchvision", "pillow", "h5py"),
    }
    return score_features(
        features, recordings, resolved, n_jobs=n_jobs or available_cores(), progress=progress, context=context
    )


def merge_settings(base: object, options: Mapping[str, object]) -> ScoreSettings:
    """Put settings given as keywords on top of others.

    Parameters
    ----------
    base
        :class:`~mvkit.scoring.ScoreSettings`, or None for the paper's protocol.
    options
        Fields that differ; ``splits`` and ``halves`` are understood.

    Raises
    ------
    UsageError
        An unknown name (with a suggestion) or a value out of range.
    """
    from mvkit.scoring import ScoreSettings, resolve_settings

    if base is not None and not isinstance(base, ScoreSettings):
        raise UsageError(f"settings: must be a ScoreSettings, got {type(base).__name__}")
    given = {_SHORT_SETTINGS.get(name, name): value for name, value in options.items()}
    return resolve_settings(**{**(base.model_dump() if base is not None else {}), **given})


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


def available_cores() -> int:
    """Return how many cores this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _features_of(
    source: object, dataset: NeuralDataset, layers: Sequence[str] | str | None, *, device: str
) -> tuple[Mapping[str, NDArray[Any]], dict[str, object]]:
    """Return layer -> features and what is known of the model."""
    from torch import nn

    from mvkit.features import FeatureSet, extract
    from mvkit.models import load_model

    if isinstance(source, str | Path):
        source = load_model(source)
    if isinstance(source, Mapping):
        about: dict[str, object] = {"model": getattr(source, "model_name", "features")}
        if isinstance(source, FeatureSet):
            about |= {"weights_id": source.weights_id, "preprocessing": source.preprocessing}
        return _pick_layers(source, layers, n_images=len(dataset.stimuli)), about
    if not isinstance(source, nn.Module):
        raise UsageError(
            f"cannot score a {type(source).__name__}: give a model, a name, features, or a mapping of arrays"
        )
    wanted = [layers] if isinstance(layers, str) else layers
    extracted = extract(source, dataset, layers=wanted, device=device)
    return extracted, {
        "model": extracted.model_name,
        "weights_id": extracted.weights_id,
        "preprocessing": extracted.preprocessing,
    }


def _pick_layers(
    features: Mapping[str, NDArray[Any]], layers: Sequence[str] | str | None, *, n_images: int
) -> Mapping[str, NDArray[Any]]:
    import numpy as np

    from mvkit.features import match_layers

    patterns = [layers] if isinstance(layers, str) else layers
    names = list(features) if patterns is None else match_layers(patterns, list(features))
    picked = {}
    for name in names:
        values = np.asarray(features[name])
        if values.ndim < 2 or len(values) != n_images:
            raise DataError(
                f"features of layer '{name}': shape {values.shape}, but the dataset has {n_images} images: "
                "give (n_images, n_features), rows in the order of its stimuli"
            )
        picked[name] = values.reshape(n_images, -1)
    return picked
