"""Layers made ready for fits, several at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from threadpoolctl import threadpool_limits

from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.rows import Features, MapRow, SimilarityRow
from mvkit.scoring.settings import ScoreSettings


def prepare_layers(
    mapping: MapRow | SimilarityRow,
    features: Mapping[str, Features],
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
    *,
    n_jobs: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Prepare layers with a row of :data:`~mvkit.scoring.mappings.MAPPINGS`.

    Parameters
    ----------
    mapping
        The row.
    features
        Layer -> (n_images, n_features), in memory or on disk.
    splits, settings
        The protocol.
    n_jobs
        Layers prepared at a time; the result does not depend on it, to the last bit.
    device
        Where inner products are formed.
    """
    with threadpool_limits(limits=1):
        return {name: mapping.prepare(name, values, splits, settings) for name, values in features.items()}
