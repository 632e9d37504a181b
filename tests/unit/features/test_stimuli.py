"""What counts as images, and where they come from."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from mvkit.errors import DataError, UsageError
from mvkit.features.stimuli import ImagesDigest, default_stimuli, open_stimuli
from mvkit.paths import neural_path


@pytest.fixture()
def neural_file(tmp_path, pictures):
    """A neural file with seven stimuli and the frame ids 10, 11, ..."""
    from mvkit.neural import NeuralFileContents, create_neural_file

    contents = NeuralFileContents(
        dataset="mine",
        stimuli=pictures,
        trials=np.arange(2),
        frame_ids=np.arange(10, 17),
        time_s=None,
        unit_columns={
            "unit_id": np.array([5]),
            "specimen_id": np.array([1]),
            "visual_area": np.array(["VISp"], dtype=object),
            "n_trials": np.array([2]),
        },
        units_of_measure="spikes/s",
        response_dtype=np.dtype(np.float32),
    )
    path = tmp_path / "mine.h5"
    with create_neural_file(path, contents) as responses:
        responses[...] = np.zeros(contents.shape, np.float32)
    return path


def test_arrays_are_numbered(pictures):
    stimuli = open_stimuli(pictures)
    assert stimuli.image_ids == tuple(range(7))
    np.testing.assert_array_equal(np.stack(stimuli.read(2, 4)), pictures[2:4])
    assert not stimuli.is_prepared
    assert open_stimuli(stimuli) is stimuli


def test_tensors_pass_for_arrays(inputs, pictures):
    assert open_stimuli(inputs.requires_grad_()).is_prepared
    np.testing.assert_array_equal(open_stimuli(torch.from_numpy(pictures)).read(0, 7), pictures)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((5, 8, 8), np.int64), "pixels must be uint8"),
        (np.zeros((5, 8, 8), np.float32), "four axes"),
        (np.zeros((64, 64, 3), np.uint8), "one colour image"),
        (np.zeros((5, 3, 8, 8), np.uint8), "colour must be the last axis"),
        (np.zeros((8, 8), np.uint8), "three or four axes"),
        (None, "uint8"),
    ],
)
def test_arrays_of_another_kind_are_refused_with_the_reason(images, reason):
    with pytest.raises(UsageError, match=reason):
        open_stimuli(images)


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no images"):
        open_stimuli(np.zeros((0, 8, 8), np.uint8))


def test_a_neural_file_gives_its_stimuli_and_frame_ids(neural_file, pictures):
    stimuli = open_stimuli(str(neural_file))
    assert stimuli.name == "mine"
    assert stimuli.image_ids == tuple(range(10, 17))
    np.testing.assert_array_equal(np.stack(stimuli.read(0, 7)), pictures)


def test_a_fetched_dataset_is_found_under_home_and_preferred(neural_file, tmp_path, pictures):
    home = tmp_path / "home"
    assert default_stimuli(home=home) == "simulated"
    place = neural_path("neuropixels", home)
    place.parent.mkdir(parents=True)
    shutil.copy(neural_file, place)
    assert default_stimuli(home=home) == "neuropixels"
    stimuli = open_stimuli("neuropixels", home=home)
    assert stimuli.name == "neuropixels"
    np.testing.assert_array_equal(np.stack(stimuli.read(0, 7)), pictures)


def test_the_simulated_dataset_needs_no_file():
    from mvkit.neural import open_dataset

    stimuli = open_stimuli("simulated")
    expected = open_dataset("simulated")
    assert stimuli.name == "simulated"
    assert stimuli.image_ids == tuple(expected.frame_ids)
    np.testing.assert_array_equal(np.stack(stimuli.read(0, expected.n_images)), expected.stimuli)


def test_a_dataset_that_was_not_fetched_names_the_command(tmp_path):
    with pytest.raises(DataError, match="mvkit fetch neural --dataset calcium"):
        open_stimuli("calcium", home=tmp_path)


def test_an_unknown_place_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such dataset, neural file or folder"):
        open_stimuli(tmp_path / "nowhere")


def test_the_digest_depends_on_values_shapes_and_order_but_not_on_the_pieces(pictures):
    def digest(*pieces):
        made = ImagesDigest()
        for piece in pieces:
            made.update(list(piece))
        return made.hexdigest()

    whole = digest(pictures)
    assert digest(pictures[:3], pictures[3:]) == whole
    assert digest(pictures[::-1]) != whole
    assert digest(pictures.transpose(0, 2, 1)) != whole
    assert digest(pictures.reshape(7, 11, 9)) != whole
