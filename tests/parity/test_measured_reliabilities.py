"""Reliabilities measured anew from the published pickles, against those that were published with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.neural import convert_pickle, open_dataset
from mvkit.pipeline.reliability import measure_reliability

DATASETS = ("neuropixels", "calcium")
#: Halvings of the published reliabilities (README of the stand-ins).
N_HALVES = 100


@dataclass(frozen=True)
class Published:
    """A converted pickle and the reliabilities that came with it."""

    path: Path
    mean: Any
    std: Any


@pytest.fixture(scope="module")
def published(legacy_published: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    found: dict[str, Published] = {}

    def get(dataset: str) -> Published:
        if dataset not in found:
            (source, *_) = sorted(legacy_published.glob(f"mouse_{dataset}_*.pkl*"))
            path = tmp_path_factory.mktemp("neural") / f"{dataset}.h5"
            convert_pickle(source, path, dataset=dataset)
            truth = np.load(next(legacy_published.glob(f"mouse_{dataset}_*_truth.npz")))
            names = (
                ("splithalf_r_mean", "splithalf_r_std")
                if dataset == "neuropixels"
                else ("units__reliability_mean", "units__reliability_std")
            )
            found[dataset] = Published(path, *(truth[name] for name in names))
        return found[dataset]

    return get


@pytest.mark.parametrize("dataset", DATASETS)
def test_they_are_the_published_ones(
    published: Callable[[str], Published], tmp_path: Path, dataset: str
) -> None:
    """Same definition and same draws, hence the same numbers; and then the same selection."""
    wanted, copy = published(dataset), tmp_path / "copy.h5"
    report = measure_reliability(wanted.path, out=copy, replace=True)
    np.testing.assert_array_equal(np.isnan(report.mean), np.isnan(wanted.mean))
    np.testing.assert_allclose(report.mean, wanted.mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(report.std, wanted.std, rtol=0, atol=1e-9)
    first, second = open_dataset(wanted.path), open_dataset(copy)
    assert [recording.label for recording in first.recordings] == [rec.label for rec in second.recordings]
    for one, other in zip(first.recordings, second.recordings, strict=True):
        assert one.time_bins == other.time_bins
        np.testing.assert_array_equal(one.unit_ids, other.unit_ids)
        np.testing.assert_array_equal(one.responses, other.responses)


@pytest.mark.parametrize("dataset", DATASETS)
def test_other_draws_agree_within_sampling_error(
    published: Callable[[str], Published], tmp_path: Path, dataset: str
) -> None:
    """Means of 100 independent split halves differ by std * sqrt(2 / 100), nearly normally distributed."""
    wanted = published(dataset)
    report = measure_reliability(wanted.path, seed=1234, out=tmp_path / "copy.h5", replace=True)
    z = (report.mean - wanted.mean) / (np.fmax(report.std, wanted.std) * np.sqrt(2 / N_HALVES))
    z = z[np.isfinite(z)]
    assert z.size > 0.5 * wanted.mean.size
    assert np.abs(z).max() < 6
    # Not the same draws, and errors of the size that they should have; units share draws, so not exactly.
    assert 0.5 < z.std() < 1.5
    assert abs(z.mean()) < 0.6
