"""What figures of a model and recordings show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvkit.errors import UsageError
from mvkit.neural import Recording, open_dataset, write_neural_file
from mvkit.neural.neural_file import NeuralFileContents, create_neural_file
from mvkit.neural.open import read_unit_facts
from mvkit.pipeline.plots import ModelLayer, compare_rdms, read_unit

N_IMAGES = 20


@pytest.fixture(scope="module")
def stimuli() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (N_IMAGES, 32, 32)).astype(np.uint8)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, stimuli: np.ndarray) -> Path:
    """Two animals in VISp with units of the same ids; the units of animal 2 follow single pixels."""
    rng = np.random.default_rng(0)
    pixels = stimuli[:, :2, :3].reshape(N_IMAGES, 6).astype(np.float32)
    follows = pixels[None] + rng.normal(0, 5, (4, N_IMAGES, 6)).astype(np.float32)
    noise = rng.normal(0, 1, (4, N_IMAGES, 6)).astype(np.float32)
    noise[0, 2, 1] = np.nan
    quality = {"reliability_mean": np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.5])}
    recordings = [
        Recording.from_arrays(noise, unit_ids=np.arange(6), area="VISp", specimen=1, units=quality),
        Recording.from_arrays(
            follows,
            unit_ids=np.arange(6),
            area="VISp",
            specimen=2,
            units={"reliability_mean": np.full(6, 0.7)},
        ),
        Recording.from_arrays(noise[..., :2], unit_ids=[40, 41], area="VISl", specimen=2),
    ]
    path = tmp_path_factory.mktemp("recordings") / "averaged.h5"
    return write_neural_file(path, recordings, stimuli=stimuli, units_of_measure="dF/F", name="mine")


def test_rdms_are_those_of_mean_patterns_and_features(averaged: Path, stimuli: np.ndarray) -> None:
    rdms = compare_rdms(ModelLayer("pixels"), averaged, area="VISp", selection="none")
    data = open_dataset(averaged, selection="none")
    patterns = np.concatenate(
        [
            np.nanmean(data.recording("VISp", animal).responses.astype(np.float64), axis=0)
            for animal in (1, 2)
        ],
        axis=1,
    )
    assert rdms.area_rdm == pytest.approx(1 - np.corrcoef(patterns), abs=1e-9)
    assert (rdms.n_units, rdms.n_animals, rdms.dataset, rdms.model) == (12, 2, "mine", "pixels")
    assert rdms.layer_rdm.shape == (N_IMAGES, N_IMAGES)
    assert np.diagonal(rdms.layer_rdm) == pytest.approx(0.0, abs=1e-9)


def test_several_layers_must_be_chosen_from(averaged: Path) -> None:
    with pytest.raises(UsageError, match=r"alexnet_bn has \d layers, name one: features.3") as raised:
        compare_rdms(ModelLayer("alexnet_bn", weights="random"), averaged, area="VISp")
    assert "mvkit list layers alexnet_bn" in str(raised.value)
    with pytest.raises(UsageError, match="unknown area 'VISam'"):
        compare_rdms(ModelLayer("pixels"), averaged, area="VISam", selection="none")


def test_without_an_id_the_most_reliable_unit_is_taken(averaged: Path) -> None:
    unit = read_unit(averaged, area="VISp")
    assert (unit.specimen, unit.unit_id, unit.reliability) == (1, 4, 0.9)
    assert read_unit(averaged, area="VISp", specimen=2).unit_id == 0
    assert np.isnan(read_unit(averaged, area="VISl").reliability)
    assert (unit.units_of_measure, unit.dataset, unit.course, unit.prediction) == ("dF/F", "mine", None, None)


def test_a_unit_by_its_id(averaged: Path) -> None:
    unit = read_unit(averaged, area="VISp", specimen=1, unit_id=1)
    expected = open_dataset(averaged, selection="none").recording("VISp", 1).responses[:, :, 1]
    np.testing.assert_array_equal(unit.responses, expected)
    with pytest.raises(UsageError, match="animals 1, 2 have one of this id; say which with --animal"):
        read_unit(averaged, area="VISp", unit_id=1)
    with pytest.raises(UsageError, match=r"unknown unit of VISl '4'.*\n.*40, 41"):
        read_unit(averaged, area="VISl", unit_id=4)
    with pytest.raises(UsageError, match="unknown specimen of VISl '1'"):
        read_unit(averaged, area="VISl", specimen=1)


def test_predictions_are_of_images_that_the_map_has_not_seen(
    averaged: Path, stimuli: np.ndarray, tmp_path: Path
) -> None:
    unit = read_unit(averaged, area="VISp", specimen=2, unit_id=0, source=ModelLayer("pixels"))
    assert (unit.model, unit.layer) == ("pixels", "pixels")
    assert unit.prediction is not None and np.isfinite(unit.prediction).all()
    assert np.mean(unit.prediction) == pytest.approx(np.mean(unit.means()), rel=0.2)
    # With another response to image 7 the predictions of other images change, not its own.
    given = open_dataset(averaged, selection="none").recording("VISp", 2)
    values = given.responses.copy()
    values[:, 7] += 300.0
    other = Recording.from_arrays(values, unit_ids=given.unit_ids, area="VISp", specimen=2)
    path = write_neural_file(tmp_path / "b.h5", [other], stimuli=stimuli, units_of_measure="dF/F")
    changed = read_unit(path, area="VISp", unit_id=0, source=ModelLayer("pixels")).prediction
    assert changed is not None
    assert changed[7] == pytest.approx(unit.prediction[7])
    assert np.abs(changed - unit.prediction).max() > 10.0


def test_time_courses_are_means_over_trials(tmp_path: Path, stimuli: np.ndarray) -> None:
    counts = np.random.default_rng(0).integers(0, 5, (3, N_IMAGES, 4, 5)).astype(np.uint8)
    counts[1, 2] = 255
    contents = NeuralFileContents(
        dataset="timed",
        stimuli=stimuli,
        trials=np.arange(3),
        frame_ids=np.arange(N_IMAGES),
        time_s=0.005 + 0.01 * np.arange(4),
        unit_columns={
            "unit_id": 10 + np.arange(5),
            "specimen_id": np.full(5, 3),
            "visual_area": np.array(["VISp"] * 5, dtype=object),
        },
        units_of_measure="spikes/s",
        response_dtype=np.dtype(np.uint8),
        reliabilities={
            "splithalf_r_mean": np.array([[0.1, 0.2, 0.3, 0.4, 0.2]] * 3 + [[np.nan] * 4 + [0.8]])
        },
    )
    path = tmp_path / "timed.h5"
    with create_neural_file(path, contents) as stored:
        stored[...] = counts
    unit = read_unit(path, area="VISp")
    assert unit.unit_id == 14 and unit.reliability == 0.8
    rates = np.where(counts == 255, np.nan, counts.astype(float))[..., 4] / 0.01
    assert unit.course == pytest.approx(np.nanmean(rates, axis=0).T)
    assert unit.time_s == pytest.approx(contents.time_s)
    name, facts = read_unit_facts(path)
    assert name == "timed" and facts.reliability is not None and facts.reliability.shape == (4, 5)
    assert read_unit_facts("simulated")[1].reliability is None
