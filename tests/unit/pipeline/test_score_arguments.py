"""Arguments of `mvkit.score`, `mvkit.ceiling` and `mvkit.extract`: own models, wrong ones, warnings."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mvkit
from mvkit.errors import DataError, MvkitError, UsageError
from mvkit.neural import Recording

N_IMAGES = 30
QUICK: dict[str, Any] = {"n_splits": 2, "n_halves": 3, "n_components": 3, "n_jobs": 1, "cache": False}


@pytest.fixture(scope="module")
def dataset() -> mvkit.NeuralDataset:
    """Two areas of units that are noise, on random images, in memory."""
    rng = np.random.default_rng(3)
    stimuli = rng.integers(0, 256, (N_IMAGES, 64, 64), dtype=np.uint8)
    recordings = tuple(
        Recording(area, animal, np.arange(3), rng.normal(size=(8, N_IMAGES, 3)).astype(np.float32))
        for animal, area in ((1, "VISp"), (2, "VISl"))
    )
    return mvkit.NeuralDataset("toy", stimuli, np.arange(N_IMAGES), "spikes/s", recordings)


def network() -> nn.Module:
    """A network that somebody made, with the same weights every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 5, stride=3), nn.ReLU())


def values(scores: mvkit.Scores) -> Any:
    return scores.table()["score"].to_numpy()


def test_weights_and_seed_of_a_model_that_is_named(dataset: mvkit.NeuralDataset) -> None:
    name, layers = "single_stream_encoder", ["ventral"]
    scores = mvkit.score(name, dataset, layers, weights="random", seed=3, **QUICK)
    model = mvkit.load_model(name, weights="random", seed=3)
    np.testing.assert_array_equal(values(scores), values(mvkit.score(model, dataset, layers, **QUICK)))
    assert scores.context["model"] == f"{model.name} (random, seed 3)"
    features = mvkit.extract(name, dataset, layers, weights="random", seed=3)
    np.testing.assert_array_equal(features["ventral"], mvkit.extract(model, dataset, layers)["ventral"])


def test_any_module_is_scored_with_the_size_of_its_input(dataset: mvkit.NeuralDataset) -> None:
    net = network()
    scores = mvkit.score(net, dataset, "0,1", input_size=16, **QUICK)
    assert scores.layers == ("0", "1")
    features = mvkit.extract(net, dataset, ["0", "1"], input_size=16)
    assert features.shape_of("0") == (2, 4, 4)
    np.testing.assert_array_equal(values(scores), values(mvkit.score(features, dataset, **QUICK)))
    assert scores.context["model"] == "Sequential"
    assert net.training, "its mode is restored"


def test_inputs_that_are_prepared_need_no_size(dataset: mvkit.NeuralDataset) -> None:
    features = mvkit.extract(network(), torch.rand(N_IMAGES, 3, 16, 16), "1")
    assert mvkit.score(features, dataset, **QUICK).layers == ("1",)


def test_areas_are_a_list_or_have_commas_between(dataset: mvkit.NeuralDataset) -> None:
    both = mvkit.score("pixels", dataset, areas="VISp, VISl", **QUICK)
    assert both.areas == ("VISp", "VISl")
    np.testing.assert_array_equal(
        values(both), values(mvkit.score("pixels", dataset, areas=["VISp", "VISl"], **QUICK))
    )


def test_a_selection_belongs_to_a_dataset_that_is_named() -> None:
    scores = mvkit.score("pixels", "simulated", areas="VISp", selection="none", **QUICK)
    assert scores.context["selection"]["name"] == "none"  # type: ignore[index]
    ceiling = mvkit.ceiling("simulated", "VISp", selection="paper", n_splits=1, n_halves=2, n_jobs=1)
    # The simulated recordings have no reliabilities, so that nothing can be selected by them.
    assert ceiling.context["selection"]["name"] == "none"  # type: ignore[index]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "pixels",
            {"selection": "none"},
            "selection: the units of dataset toy were selected when it was opened",
        ),
        ("pixels", {"areas": ""}, "names of layers or areas are text"),
        ("pixels", {"areas": [1]}, "names of layers or areas are text"),
        ("pixels", {"weigths": "random"}, "unknown scoring option 'weigths'"),
        (
            network(),
            {"layers": "0"},
            r"has no \.preprocess.*\ngive the side of its input in pixels \(input_size=64",
        ),
        (network(), {"input_size": 16}, r"no published list of layers: name some \(layers=\)"),
        (network(), {"weights": "random"}, r"weights: a model that is given has its weights\n.*load_model"),
        (network(), {"seed": 1}, "seed: a model that is given has its weights"),
        (mvkit.load_model("pixels"), {"input_size": 16}, r"input_size: pixels is loaded already.*load_model"),
        ({"x": np.zeros((N_IMAGES, 9))}, {"seed": 1}, "seed: features are given"),
        ({"x": np.zeros((N_IMAGES, 9))}, {"input_size": 8}, "input_size: features are given"),
        ([[1.0]], {}, "cannot score a list: give a model, a name, features, or a mapping"),
        (np.zeros((N_IMAGES, 9)), {}, "cannot score a ndarray"),
        ("pixels", {"progress": "yes"}, "progress: must be True, False, None or a function"),
    ],
)
def test_what_does_not_belong_together_is_named(
    dataset: mvkit.NeuralDataset, source: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        mvkit.score(source, dataset, **{**QUICK, **options})
    assert "--" not in str(caught.value), "no options of the command line"


@pytest.mark.parametrize(
    ("given", "what"),
    [(np.zeros((8, 30, 3)), r"not ndarray \(8, 30, 3\)"), ([1, 2], "not list"), (None, "not NoneType")],
)
def test_other_things_are_no_dataset(given: Any, what: str) -> None:
    message = rf"dataset: give a NeuralDataset, a name .* {what}\nof arrays .*Recording\.from_arrays"
    with pytest.raises(UsageError, match=message):
        mvkit.score("pixels", given, **QUICK)
    with pytest.raises(UsageError, match=message):
        mvkit.ceiling(given)


@pytest.mark.parametrize("given", [np.full((N_IMAGES, 9), "x"), [["a"] * 9] * N_IMAGES])
def test_features_are_numbers(dataset: mvkit.NeuralDataset, given: Any) -> None:
    with pytest.raises(DataError, match=r"features of layer 'x': .* no real numbers"):
        mvkit.score({"x": given}, dataset, **QUICK)


def test_an_animal_has_a_number() -> None:
    with pytest.raises(MvkitError, match="specimen must be a whole number, not 'mouse1'"):
        Recording.from_arrays(np.zeros((2, 3, 1)), unit_ids=[1], area="VISp", specimen="mouse1")  # type: ignore[arg-type]


def test_flattening_is_said_once(dataset: mvkit.NeuralDataset, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    maps = {name: rng.normal(size=(N_IMAGES, 2, 3, 3)) for name in ("a", "b")}
    with caplog.at_level(logging.WARNING):
        mvkit.score(maps, dataset, **QUICK)
    assert [record.getMessage() for record in caplog.records] == [
        "features are flattened: layer a (30, 2, 3, 3) to (30, 18) and 1 more layers; "
        "a unit is predicted from all of them"
    ]


def test_a_layer_without_scores_is_said(
    dataset: mvkit.NeuralDataset, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    features = {"narrow": rng.normal(size=(N_IMAGES, 2)), "wide": rng.normal(size=(N_IMAGES, 9))}
    with caplog.at_level(logging.WARNING):
        scores = mvkit.score(features, dataset, **QUICK)
    (record,) = caplog.records
    assert record.getMessage().startswith("layer narrow has no score: 3 components need at least 3 features")
    assert np.isfinite(values(scores)).any()


def test_a_script_stays_silent(dataset: mvkit.NeuralDataset, capfd: pytest.CaptureFixture[str]) -> None:
    mvkit.score("pixels", dataset, **QUICK)
    mvkit.extract("pixels", dataset)
    assert capfd.readouterr() == ("", "")
    mvkit.score("pixels", dataset, progress=True, **QUICK)
    shown = capfd.readouterr()
    assert shown.out == "" and "scoring pixels" in shown.err
