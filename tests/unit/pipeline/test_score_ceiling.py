"""Ceilings from Python, kept under mvkit's home, and what may be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import mvkit
from mvkit.errors import DataError, UsageError
from mvkit.neural import Recording
from mvkit.pipeline.score import ceiling, check_protocols, fractions_by_choice, read_earlier, score
from mvkit.scoring import ScoreSettings, compare_models, save_scores
from mvkit.scoring.ceilings import measure_ceiling
from mvkit.scoring.results import save_models

N_IMAGES = 30
QUICK = {"n_splits": 2, "n_halves": 3, "n_components": 3}


@pytest.fixture(scope="module")
def dataset() -> mvkit.NeuralDataset:
    """Three animals that share eight signals, in one area."""
    rng = np.random.default_rng(5)
    signals = rng.normal(size=(N_IMAGES, 8))
    recordings = tuple(
        Recording(
            area="VISp",
            specimen=specimen,
            unit_ids=np.arange(6),
            responses=(signals @ rng.normal(size=(8, 6)) + rng.normal(size=(8, N_IMAGES, 6))).astype(
                np.float32
            ),
        )
        for specimen in (1, 2, 3)
    )
    return mvkit.NeuralDataset(
        name="toy",
        stimuli=rng.integers(0, 256, (N_IMAGES, 64, 64), dtype=np.uint8),
        frame_ids=np.arange(N_IMAGES),
        units_of_measure="spikes/s",
        recordings=recordings,
    )


def test_a_ceiling_from_python_is_measured_once(dataset: mvkit.NeuralDataset, tmp_path: Path) -> None:
    found = ceiling(dataset, n_jobs=1, home=tmp_path, **QUICK)
    expected = measure_ceiling(dataset.recordings, ScoreSettings(ceiling="holdout", **QUICK))
    np.testing.assert_array_equal(found.columns["score"], expected.columns["score"])
    assert np.isfinite(found.columns["score"]).all()
    assert len(list((tmp_path / "ceilings").iterdir())) == 1
    again = ceiling(dataset, n_jobs=1, home=tmp_path, **QUICK)
    np.testing.assert_array_equal(again.columns["score"], expected.columns["score"])
    pairwise = ceiling(dataset, kind="pairwise", mapping="ridge", n_jobs=1, home=tmp_path, **QUICK)
    assert pairwise.layers == ("pairwise",)
    assert pairwise.settings.mapping == "ridge"
    assert len(list((tmp_path / "ceilings").iterdir())) == 2


def test_scores_and_ceiling_of_the_same_settings_go_together(
    dataset: mvkit.NeuralDataset, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(N_IMAGES, 10)) for name in ("a", "b")}
    scores = score(features, dataset, n_jobs=1, ceiling="holdout", **QUICK)
    limit = ceiling(dataset, n_jobs=1, home=tmp_path, **QUICK)
    fractions = fractions_by_choice(scores, limit)
    assert fractions["choice"].tolist() == ["paper"] * 2 + ["held-out"] * 2
    row = fractions[(fractions["choice"] == "paper") & (fractions["area"] == "VISp")].iloc[0]
    best = scores.best_layers().iloc[0]
    chosen = scores.columns["score"][scores.columns["layer"] == best["layer"]]
    both = np.isfinite(chosen) & np.isfinite(limit.columns["score"])
    expected = np.median(chosen[both]) / np.median(limit.columns["score"][both])
    assert row["fraction"] == pytest.approx(expected, rel=1e-12)
    other = score(features, dataset, n_jobs=1, **{**QUICK, "n_halves": 2})
    with pytest.raises(UsageError, match="n_halves"):
        fractions_by_choice(other, limit)


def test_earlier_scores_must_be_of_the_same_protocol(dataset: mvkit.NeuralDataset, tmp_path: Path) -> None:
    features = {"a": np.random.default_rng(0).normal(size=(N_IMAGES, 10))}
    settings = ScoreSettings(**QUICK)
    save_scores(score(features, dataset, n_jobs=1, settings=settings), tmp_path / "old")
    earlier = read_earlier([tmp_path / "old"])
    assert list(earlier) == [str(tmp_path / "old")]
    check_protocols(earlier, dataset, dataset.recordings, settings)
    shown = settings.model_copy(update={"layer_choice": "held-out", "n_resamples": 100, "ceiling": "holdout"})
    check_protocols(earlier, dataset, dataset.recordings, shown)
    changed = settings.model_copy(update={"correlation": "spearman"})
    with pytest.raises(UsageError, match=r"correlation: pearson there, spearman here$"):
        check_protocols(earlier, dataset, dataset.recordings, changed)
    with pytest.raises(UsageError, match="other recordings, though both are called toy"):
        check_protocols(earlier, dataset, dataset.recordings[:2], settings)
    renamed = dataclasses.replace(dataset, name="dev")
    with pytest.raises(UsageError, match=r"other recordings \(toy there, dev here\)$"):
        check_protocols(earlier, renamed, dataset.recordings, settings)


def two_areas(dataset: mvkit.NeuralDataset) -> mvkit.NeuralDataset:
    """The same animals with a second area."""
    more = tuple(dataclasses.replace(recording, area="VISl") for recording in dataset.recordings)
    return dataclasses.replace(dataset, recordings=(*dataset.recordings, *more))


def test_models_are_compared_in_the_areas_that_all_have(dataset: mvkit.NeuralDataset, tmp_path: Path) -> None:
    both = two_areas(dataset)
    rng = np.random.default_rng(0)
    settings = ScoreSettings(**QUICK)
    nets = {name: {"a": rng.normal(size=(N_IMAGES, 10))} for name in ("one", "two")}
    saved = {name: score(net, both, n_jobs=1, settings=settings) for name, net in nets.items()}
    save_models(saved, tmp_path / "old")
    earlier = read_earlier([tmp_path / "old"])
    assert list(earlier) == [f"{tmp_path}/old/one", f"{tmp_path}/old/two"]
    assert list(read_earlier([tmp_path / "old" / "two"])) == [f"{tmp_path}/old/two"]
    recordings = both.in_areas(["VISp"]).recordings
    compared = check_protocols(earlier, both, recordings, settings)
    assert compared.areas == ("VISp",)
    assert compared.notes == ("compared in the areas that all have: VISp (VISl not scored now)",)
    now = score(nets["one"], both, areas=["VISp"], n_jobs=1, settings=settings)
    narrowed = {name: compared.narrow(scores) for name, scores in {"now": now, **earlier}.items()}
    comparison = compare_models(narrowed)
    first = comparison.pairs[0]
    assert comparison.same_protocol
    assert (first.area, first.first, first.second, first.n_units) == (
        "VISp",
        "now",
        f"{tmp_path}/old/one",
        18,
    )
    # Units of an area are mapped by themselves: what was scored with another area is what it is without.
    assert first.difference == 0.0
    # The other way round: saved in one area, scored in both.
    save_models({"one": now}, tmp_path / "less")
    compared = check_protocols(read_earlier([tmp_path / "less"]), both, both.recordings, settings)
    assert compared.areas == ("VISp",)
    assert compared.notes[0].endswith(f"VISp ({tmp_path}/less has no VISl)")
    with pytest.raises(UsageError, match="areas: VISp there, VISl here"):
        check_protocols(read_earlier([tmp_path / "less"]), both, both.in_areas(["VISl"]).recordings, settings)


def test_folders_of_earlier_scores_are_checked(dataset: mvkit.NeuralDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is this a folder written by 'mvkit score --out'"):
        read_earlier([tmp_path])
    features = {"a": np.random.default_rng(0).normal(size=(N_IMAGES, 10))}
    save_scores(score(features, dataset, n_jobs=1, **QUICK), tmp_path / "old")
    with pytest.raises(UsageError, match="given twice"):
        read_earlier([tmp_path / "old", tmp_path / "x" / ".." / "old"])
