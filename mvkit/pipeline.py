"""The main job in one call: features of a model, responses of a dataset, noise-corrected scores.

This is the only library module that knows every stage. Scoring itself
(:mod:`mvkit.scoring`) sees arrays only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mvkit.errors import UsageError
from mvkit.machine import Resources
from mvkit.score_dataset import choose_recordings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from mvkit.features import FeatureSet
    from mvkit.neural import NeuralDataset
    from mvkit.scoring import Scores, ScoreSettings

Progress = Callable[[int, int], None]


#: What :func:`score` and :func:`ceiling` compare by if nothing else is said.
_DEFAULT_MAPPING = "pls"


def score(
    features_or_model: FeatureSet | nn.Module | Mapping[str, NDArray[np.floating[Any]]] | str | Path,
    dataset: NeuralDataset | str | Path,
    layers: Sequence[str] | str | None = None,
    areas: Sequence[str] | str | None = None,
    mapping: str = _DEFAULT_MAPPING,
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
        Names, patterns, or ``"published"`` for the list that the reference scored; None means the model's
        default list (the same but for ``vgg16_encoder``), or every layer of given features.
    areas
        Area acronyms, e.g. ``["VISp", "VISl"]``; None means all.
    mapping
        ``"pls"``, ``"ridge"``, ``"one-to-one"``, ``"lasso"``, ``"elasticnet"``, ``"rsa"`` or ``"cka"``.
    n_jobs
        Worker processes; None means one per core. The result does not depend on it.
    device
        Where features are extracted, e.g. ``"cuda"``.
    progress
        Called with (done, total) fits.
    **settings
        Fields of :class:`~mvkit.scoring.ScoreSettings`, for instance ``n_splits=2, n_halves=10``
        (``splits`` and ``halves`` are understood too), or ``settings=ScoreSettings(...)``. Those of the
        ceiling are kept with the scores and change nothing; :func:`ceiling` measures one.
        ``cache=False`` neither uses nor keeps results under mvkit's home; ``resources=Resources(...)`` says
        this and where to run all at once, in place of ``n_jobs``, ``device`` and ``cache``.

    Returns
    -------
    Scores
        One row per layer, area, specimen and unit; see :class:`~mvkit.scoring.Scores`.

    Raises
    ------
    UsageError
        An unknown model, layer, area or setting, or ``resources`` beside what it stands for.
    DataError
        Features and responses are not of the same images.

    Notes
    -----
    Protocol of Nayebi, Kong et al. 2023, PLOS Comput Biol 19(10):e1011506, as the code published with it
    computes it; numbers of splits and halvings as given to us, not checked against the paper's text.
    """
    from mvkit.neural import open_dataset
    from mvkit.score_layers import score_source
    from mvkit.scoring.parallel import dask_cluster

    resources = _resources(n_jobs, device, settings)
    resolved = _settings_with(mapping, settings)
    opened = open_dataset(dataset, home=resources.home) if isinstance(dataset, str | Path) else dataset
    recordings = choose_recordings(opened, areas)
    with dask_cluster(resources.dask):
        return score_source(
            features_or_model, opened, recordings, resolved, resources, layers=layers, progress=progress
        )


def _resources(n_jobs: int | None, device: str, options: dict[str, object]) -> Resources:
    """Take what says where to run out of a call's options."""
    cache, resources = options.pop("cache", None), options.pop("resources", None)
    if resources is None:
        if cache not in (None, True, False):
            raise UsageError(f"cache: must be True or False, got {cache!r}")
        return Resources(n_jobs=n_jobs, device=device, cache=cache is not False)
    if not isinstance(resources, Resources):
        raise UsageError(f"resources: must be Resources, got {type(resources).__name__}")
    if (n_jobs, device, cache) != (None, "cpu", None):
        raise UsageError("resources: says n_jobs, device and cache already; give either it or these")
    return resources


def ceiling(
    dataset: NeuralDataset | str | Path,
    areas: Sequence[str] | str | None = None,
    kind: Literal["holdout", "pairwise"] = "holdout",
    mapping: str = _DEFAULT_MAPPING,
    *,
    home: Path | None = None,
    n_jobs: int | None = None,
    progress: Progress | None = None,
    **settings: object,
) -> Scores:
    """Measure how well animals predict one another: the ceiling of what a model can reach.

    A ceiling that was measured before is read from ``ceilings`` under mvkit's home.

    Parameters
    ----------
    dataset
        A dataset, the name of one, or the path of a neural file (default selection of units).
    areas
        Area acronyms; None means all.
    kind
        ``"holdout"`` predicts each animal from the units of all others pooled, ``"pairwise"`` from every
        other animal by itself.
    mapping
        As in :func:`score`.
    home
        mvkit's home directory; None means the usual one.
    n_jobs
        Worker processes; None means one per core. The result does not depend on it.
    progress
        Called with (done, total) fits.
    **settings
        As in :func:`score`; the same settings make the ceiling comparable with scores.

    Returns
    -------
    Scores
        One row per area, specimen and unit, under one "layer" named as ``kind``.

    Raises
    ------
    UsageError
        An unknown area or setting.

    Notes
    -----
    Inter-animal consistency of Nayebi, Kong et al. 2023, PLOS Comput Biol 19(10):e1011506, as the code
    published with it computes it.
    """
    from mvkit.neural import open_dataset
    from mvkit.score_ceiling import measured_ceiling

    resolved = _settings_with(mapping, {**settings, "ceiling": kind})
    opened = open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
    recordings = choose_recordings(opened, areas)
    resources = Resources(n_jobs=n_jobs, home=home)
    measured, _ = measured_ceiling(opened, recordings, resolved, resources=resources, progress=progress)
    return measured


def _settings_with(mapping: str, settings: Mapping[str, object]) -> ScoreSettings:
    """Resolve settings of a call: ``settings=``, if given, under keywords and a mapping that was named."""
    options = dict(settings)
    base = options.pop("settings", None)
    if base is None or mapping != _DEFAULT_MAPPING:
        options = {"mapping": mapping, **options}
    from mvkit.scoring.settings import merge_settings

    return merge_settings(base, options)
