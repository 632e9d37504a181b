"""The commands and programs of docs/howto/other-programs.md, run as printed; their results by value."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mvkit
from mvkit.cli.main import run
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.similarity import RSA

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "other-programs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run the page from top to bottom in an empty folder; return what each program defined."""
    namespaces: list[dict[str, Any]] = []
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MVKIT_HOME", str(folder / "home"))
        for kind, text in BLOCKS:
            if kind == "python":
                namespaces.append({"__name__": "docs", "folder": folder})
                exec(compile(text, "other-programs.md", "exec"), namespaces[-1])
                continue
            for line in filter(None, text.splitlines()):
                words = shlex.split(line)
                assert words[0] == "mvkit"
                assert run(words[1:]) == 0, line
    return namespaces


@pytest.fixture(scope="module")
def stream() -> mvkit.FeatureSet:
    """The features of the page's network, as mvkit gives them in memory."""
    model = mvkit.load_model("single_stream_encoder", weights="random")
    return mvkit.extract(model, mvkit.open_dataset("simulated"))


def defining(programs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one program that defines a name."""
    (found,) = (program for program in programs if name in program)
    return found


def test_files_hold_what_mvkit_extracts(programs, stream):
    read = defining(programs, "image_ids")
    assert list(read["layers"]) == list(stream) == list(read["features"])
    for layer, values in stream.items():
        assert tuple(read["shapes"][layer]) == stream.shape_of(layer)
        np.testing.assert_array_equal(read["layers"][layer], values)
        np.testing.assert_array_equal(read["features"][layer], values)
    np.testing.assert_array_equal(read["image_ids"], mvkit.open_dataset("simulated").frame_ids)
    assert read["model"] == "gabor"
    gabor = mvkit.extract("gabor", mvkit.open_dataset("simulated"))
    np.testing.assert_array_equal(read["energy"], gabor["energy"])


def test_dissimilarities_of_rsatoolbox_are_those_of_mvkit(programs, stream):
    rsa = defining(programs, "rdms")
    every = [ImageSplit(np.empty(0, dtype=np.int64), np.arange(stream.n_images))]
    found = rsa["rdms"].get_matrices()
    assert list(rsa["rdms"].rdm_descriptors["layer"]) == list(stream)
    upper = np.triu_indices(stream.n_images, k=1)
    means = mvkit.open_dataset("simulated").responses("VISp").mean(axis=0, dtype=float)
    area = RSA().population_matrices(means[np.newaxis], np.ones((1, means.shape[1]), dtype=bool))[0]
    np.testing.assert_allclose(rsa["area"].get_matrices()[0][upper], area[upper], rtol=0, atol=1e-12)
    for layer, matrix, similarity in zip(stream, found, rsa["similarity"], strict=True):
        expected = RSA().layer_matrices(layer, stream[layer], every)[0]
        np.testing.assert_allclose(matrix[upper], expected[upper], rtol=0, atol=1e-12)
        assert similarity == pytest.approx(np.corrcoef(expected[upper], area[upper])[0, 1], abs=1e-9)


def test_himalaya_predicts_the_recordings_that_these_features_made(programs):
    fit = defining(programs, "predicted")
    energy, responses, train, test = (fit[name] for name in ("energy", "responses", "train", "test"))
    assert sorted([*train, *test]) == list(range(118))
    centred = energy[train] - energy[train].mean(axis=0)
    gram, cross = centred @ centred.T, (energy[test] - energy[train].mean(axis=0)) @ centred.T
    for unit, alpha in enumerate(fit["ridge"].best_alphas_):
        mean = responses[train, unit].mean()
        weights = np.linalg.solve(gram + alpha * np.eye(len(train)), responses[train, unit] - mean)
        np.testing.assert_allclose(fit["predicted"][:, unit], cross @ weights + mean, rtol=1e-6, atol=1e-6)
    # The simulated units are linear read-outs of these energies with noise; other images carry no signal.
    assert np.median(fit["correlations"]) > 0.3
    shuffled = np.roll(fit["predicted"], 1, axis=0)
    by_chance = [
        np.corrcoef(shuffled[:, unit], responses[test, unit])[0, 1] for unit in range(responses.shape[1])
    ]
    assert abs(np.median(by_chance)) < 0.2 < np.median(fit["correlations"])


def test_exported_weights_are_the_network_s_and_give_the_same_features(programs, stream):
    weights = defining(programs, "state")
    model = mvkit.load_model("single_stream_encoder", weights="random")
    assert set(weights["state"]) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(weights["state"][key], value)
    assert weights["facts"]["weights_id"] == "random:seed=0"
    assert weights["preprocessing"]["resize_px"] == model.preprocess.resize_px
    with np.load(weights["folder"] / "again.npz") as again:
        for layer, values in stream.items():
            np.testing.assert_array_equal(again[layer], values)
