"""A network that takes clips, scored on a simulated movie file; scores under viewing conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import mvkit
from mvkit.cli.main import run
from mvkit.errors import RecipeError, UsageError
from mvkit.features import read_features
from mvkit.machine import Resources
from mvkit.neural import open_neural_file
from mvkit.pipeline.request import ScoreRequest, resolve_recipe
from mvkit.pipeline.score import run_score

#: Two 3-D convolutions, for clips of four frames; weights from a seed.
VIDEO = """
import torch
from torch import nn
from mvkit.models.preprocessing import GREY_64

class Video(nn.Sequential):
    clip_frames, clip_axes, layers, preprocess = 4, "CTHW", ["0", "2"], GREY_64

def net():
    torch.manual_seed(8)
    return Video(nn.Conv3d(3, 4, (3, 32, 32), stride=(1, 32, 32)), nn.ReLU(), nn.Conv3d(4, 5, (2, 1, 1)))
"""
N_FRAMES, N_TRIALS, N_UNITS, AMPLITUDE = 160, 20, 6, 120


def write_movie(folder: Path) -> Path:
    """Write a file whose neurons are driven by the second convolution over the last four frames."""
    (folder / "video.py").write_text(VIDEO)
    draws = np.random.default_rng(4)
    coarse = draws.integers(128 - AMPLITUDE, 128 + AMPLITUDE, (N_FRAMES, 4, 4))
    frames = np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2).astype(np.uint8)
    # The truth, by torch alone: none of mvkit's clips, layers or extraction.
    net = mvkit.load_model(f"{folder / 'video.py'}:net").network
    grey = torch.from_numpy(frames.astype(np.float32) / np.float32(255))
    clips = torch.stack([grey[[max(0, t - lag) for lag in (3, 2, 1, 0)]] for t in range(N_FRAMES)])
    first, second = net[0], net[2]
    with torch.no_grad():
        hidden = functional.conv3d(
            clips[:, None].expand(-1, 3, -1, -1, -1), first.weight, first.bias, stride=(1, 32, 32)
        )
        truth = functional.conv3d(hidden.relu(), second.weight, second.bias).flatten(1).double().numpy()
    drive = truth @ draws.normal(size=(truth.shape[1], 2 * N_UNITS))
    drive = (drive - drive.mean(axis=0)) / drive.std(axis=0)
    noise = draws.normal(size=(N_TRIALS, *drive.shape))
    responses = drive + noise
    dataset = mvkit.NeuralDataset.from_arrays(
        {"VISp": {"one": responses[..., :N_UNITS], "two": responses[..., N_UNITS:]}},
        frames,
        frame_rate_hz=30,
        name="movie",
    )
    return dataset.save(folder / "movie.h5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``movie.h5`` and ``video.py``."""
    folder = tmp_path_factory.mktemp("movie")
    write_movie(folder)
    return folder


def request(folder: Path, *models: str, **overrides: object) -> ScoreRequest:
    return ScoreRequest(
        models,
        dataset=str(folder / "movie.h5"),
        options={"n_splits": 2, "n_halves": 2},
        # As many components as the layer has features: the map is least squares.
        overrides=("n_components=20", *(f"{key}={value}" for key, value in overrides.items())),
        resources=Resources(home=folder / "home", n_jobs=1),
    )


def test_the_true_layer_predicts_and_a_network_of_single_frames_does_not(folder: Path) -> None:
    with open_neural_file(folder / "movie.h5") as file:
        assert file.contents.frame_rate_hz == 30
    result = run_score(request(folder, f"{folder / 'video.py'}:net", "pixels"), note=lambda _: None)
    clips, pixels = result.models.values()
    medians = clips.summary().query("area == 'VISp'").set_index("layer")["median"]
    # The corrected score of the layer that drives the neurons is 1 but for the error of a map from 80 frames.
    assert medians["2"] == pytest.approx(1.0, abs=0.05)
    assert float(pixels.best_layers()["median"].iloc[0]) < 0.6
    assert clips.context["preprocessing"]["clip_frames"] == 4


def test_scores_under_viewing_conditions_are_those_of_filtered_images(folder: Path) -> None:
    given = {"input.acuity_cpd": 0.02, "input.field_of_view_deg": 60}
    result = run_score(request(folder, "pixels", **given), note=lambda _: None)
    again = run_score(request(folder, "pixels"), note=lambda _: None)
    blurred, usual = result.models["pixels"], again.models["pixels"]
    sees = mvkit.ViewingConditions(acuity_cpd=0.02, field_of_view_deg=60)
    dataset = mvkit.open_dataset(folder / "movie.h5")
    images = np.stack([sees(image) for image in dataset.stimuli])
    features = mvkit.extract("pixels", images)
    expected = mvkit.score(features, dataset, n_splits=2, n_halves=2, n_components=20, n_jobs=1, cache=False)
    assert np.array_equal(blurred.columns["score"], expected.columns["score"])
    # The second run has the cache of the first, and none of its scores.
    assert not np.isclose(blurred.columns["score"], usual.columns["score"]).any()
    assert blurred.context["preprocessing"]["acuity_cpd"] == 0.02
    assert "acuity_cpd" not in usual.context["preprocessing"]


def test_a_field_of_view_alone_has_no_effect(folder: Path) -> None:
    with pytest.raises(
        UsageError, match=r"input.field_of_view_deg=60 has no effect: it belongs to input.acuity"
    ):
        resolve_recipe(request(folder, "pixels", **{"input.field_of_view_deg": 60}))
    with pytest.raises(RecipeError, match=r"input\.acuity_cpd: give a number above 0, or null, got 0"):
        resolve_recipe(request(folder, "pixels", **{"input.acuity_cpd": 0}))


def test_a_dataset_of_images_can_be_said_to_be_a_movie(folder: Path) -> None:
    dataset = mvkit.open_dataset(folder / "movie.h5")
    still = mvkit.NeuralDataset.from_arrays(
        {"VISp": {"one": dataset.recordings[0].responses}}, dataset.stimuli, name="still"
    )
    still.save(folder / "still.h5", overwrite=True)
    model = f"{folder / 'video.py'}:net"
    changed = {"dataset": str(folder / "still.h5")}
    wanted = request(folder, model)
    with pytest.raises(
        UsageError, match=r"video\.py:net takes clips of 4 frames.*'still'.*\n.*frame_rate_hz=HZ"
    ):
        run_score(replace(wanted, **changed), note=lambda _: None)
    said = replace(wanted, overrides=(*wanted.overrides, "input.frame_rate_hz=30"), **changed)
    result = run_score(said, note=lambda _: None)
    (scores,) = result.models.values()
    of_movie = mvkit.score(
        mvkit.load_model(model), dataset, n_splits=2, n_halves=2, n_components=20, n_jobs=1, cache=False
    )
    first = of_movie.columns["specimen"] == dataset.recordings[0].specimen
    assert np.array_equal(scores.columns["score"], of_movie.columns["score"][first])


def test_the_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, movie, home = f"{folder / 'video.py'}:net", str(folder / "movie.h5"), ["--home", str(tmp_path)]
    out = tmp_path / "clips.npz"
    assert run(["extract", model, "--stimuli", movie, "--acuity", "0.3", "--out", str(out), *home]) == 0
    features = read_features(out)
    assert features["2"].shape == (N_FRAMES, 20)
    recorded = {"acuity_cpd": 0.3, "field_of_view_deg": 120.0, "clip_frames": 4, "frame_rate_hz": 30.0}
    assert recorded.items() <= features.preprocessing.items()
    capsys.readouterr()
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(tmp_path / "one.png")
    words = ["extract", model, "--stimuli", str(tmp_path), "--out", str(tmp_path / "f.h5"), *home]
    assert run(words) == 2
    error = capsys.readouterr().err
    assert "give the rate: --frame-rate HZ (mvkit score: --set input.frame_rate_hz=HZ)" in error
    assert run([*words, "--frame-rate", "30"]) == 0
    words = ["extract", "pixels", "--export-weights", str(tmp_path / "w.safetensors"), "--acuity", "0.5"]
    assert run([*words, *home]) == 2 and "leave out --acuity" in capsys.readouterr().err
