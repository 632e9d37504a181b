"""Layers made ready for fits, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from threadpoolctl import threadpool_limits

from mvkit.scoring.gram import InnerProducts, LayerCoordinates, inner_products, layer_coordinates
from mvkit.scoring.processes import worker_count
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.rows import LayerInput, MapRow, SimilarityRow
from mvkit.scoring.settings import ScoreSettings


def prepare_layers(
    mapping: MapRow | SimilarityRow,
    features: Mapping[str, LayerInput],
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
    *,
    n_jobs: int = 1,
    inner: InnerProducts | None = None,
    keep: Callable[[LayerCoordinates], None] | None = None,
) -> dict[str, Any]:
    """Prepare layers with a row of :data:`~mvkit.scoring.mappings.MAPPINGS`.

    Blocks of at most ``n_jobs`` layers are in memory at a time.

    Parameters
    ----------
    mapping
        The row.
    features
        Layer -> (n_images, n_features), in memory or on disk; or their coordinates, for a row with
        ``from_coordinates``. A layer is asked for when its turn has come, by one of several threads.
    splits, settings
        The protocol.
    n_jobs
        Layers prepared at a time, in threads; -1 = one per core. The result does not depend on it, to the
        last bit.
    inner
        Forms the inner products of wide layers, on a device say; for rows with ``from_coordinates``. None:
        numpy does.
    keep
        Called with the coordinates of every layer that were not given but made, as soon as they are there;
        for rows with ``from_coordinates``. By one of several threads.

    Returns
    -------
    dict
        Layer -> what the row prepared, in the order given.

    Raises
    ------
    DataError
        If a layer is not a matrix of finite numbers; of several, the first one tells.
    UsageError
        If ``n_jobs`` is 0.
    """

    def prepare(name: str) -> Any:
        given = features[name]
        if mapping.from_coordinates and not isinstance(given, LayerCoordinates):
            given = layer_coordinates(name, given, inner or inner_products)
            if keep is not None:
                keep(given)
        return mapping.prepare(name, given, splits, settings)

    names = list(features)
    threads = min(_thread_count(n_jobs), max(1, len(names)))
    with threadpool_limits(limits=1):
        if threads == 1:
            return {name: prepare(name) for name in names}
        # Some libraries count threads per thread that calls them, so that each one is limited itself.
        limited = partial(threadpool_limits, limits=1)
        with ThreadPoolExecutor(threads, "layers", initializer=limited) as pool:
            return dict(zip(names, pool.map(prepare, names), strict=True))


def _thread_count(n_jobs: int) -> int:
    """Return how many threads ``n_jobs`` means here, whatever cluster jobs are sent to."""
    from joblib import cpu_count

    cores = int(cpu_count())
    return cores if n_jobs == -1 else min(worker_count(n_jobs), cores)
