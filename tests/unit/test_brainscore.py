"""Models and recordings in Brain-Score's terms, held against mvkit's own features and scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mvkit
from mvkit.errors import DataError, UsageError

pytestmark = pytest.mark.filterwarnings(
    # brainscore_core's own classes.
    "ignore:xarray subclass:FutureWarning",
    "ignore:.*:DeprecationWarning:brainscore_core",
    "ignore:Pandas doesn't allow columns to be created:UserWarning",
)

LAYER = "features.0"
SETTINGS: dict[str, Any] = {"n_splits": 1, "n_halves": 2, "n_jobs": 1}


@pytest.fixture(scope="module")
def brainscore() -> Any:
    """mvkit.brainscore, where brainscore_core is installed."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("brainscore_core.metrics", reason="brainscore_core: pip install '.[brainscore]'")
        import mvkit.brainscore

    return mvkit.brainscore


@pytest.fixture(scope="module")
def dataset() -> Any:
    return mvkit.open_dataset("simulated", selection="none")


@pytest.fixture(scope="module")
def model(brainscore: Any) -> Any:
    return brainscore.ActivationsModel("alexnet_encoder", weights="random", seed=3)


@pytest.fixture(scope="module")
def benchmark(brainscore: Any, dataset: Any) -> Any:
    return brainscore.NeuralBenchmark(dataset, "VISp", **SETTINGS)


def test_without_brainscore_core_it_is_said_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['brainscore_core'] = None\n"
        "from mvkit.errors import MissingPackageError\n"
        "try:\n    import mvkit.brainscore\n"
        "except MissingPackageError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mvkit.brainscore needs brainscore_core, which is not usable here")
    assert "pip install '.[brainscore]'" in done.stdout


def test_random_weights_are_part_of_the_identifier(model: Any) -> None:
    assert model.identifier == "alexnet_encoder (random, seed 3)"


def test_features_are_those_of_extract(model: Any, benchmark: Any, dataset: Any) -> None:
    stimuli = benchmark.stimulus_set[:5]
    assembly = model(stimuli, layers=[LAYER, "classifier.1"])
    assembly.validate()
    expected = mvkit.extract(
        mvkit.load_model("alexnet_encoder", "random", 3), dataset.stimuli[:5], [LAYER, "classifier.1"]
    )
    for layer in expected:
        np.testing.assert_array_equal(assembly.sel(layer=layer).values, expected[layer])
    first = assembly.sel(layer=LAYER)
    shape = expected.shape_of(LAYER)
    indices = [first[name].values.astype(int) for name in ("channel", "channel_x", "channel_y")]
    np.testing.assert_array_equal(np.ravel_multi_index(indices, shape), first["neuroid_num"].values)
    assert assembly["neuroid_id"].values[0] == f"{model.identifier}.{LAYER}.0"
    assert len(set(assembly["neuroid_id"].values)) == assembly.sizes["neuroid"]
    assert list(assembly["stimulus_id"].values) == [str(one) for one in dataset.frame_ids[:5]]
    assert list(assembly["filename"].values) == list(stimuli["filename"])


def test_a_path_that_is_named_twice_is_shown_once(model: Any, benchmark: Any) -> None:
    first, second = map(str, list(benchmark.stimulus_set.stimulus_paths.values())[:2])
    assembly = model([second, first, second], layers=[LAYER])
    assert list(assembly["stimulus_path"].values) == [second, first, second]
    np.testing.assert_array_equal(assembly.values[0], assembly.values[2])
    assert not np.array_equal(assembly.values[0], assembly.values[1])


def test_hooks_as_brainscore_vision_registers_them(model: Any, benchmark: Any) -> None:
    handle = model.register_batch_activations_hook(
        lambda activations: {layer: values.mean((2, 3)) for layer, values in activations.items()}
    )
    paths = [str(benchmark.stimulus_set.get_stimulus("0"))]
    assert model._extractor._batch_activations_hooks
    pooled = model(paths, layers=[LAYER])
    handle.disable()
    whole = model(paths, layers=[LAYER])
    handle.enable()
    assert model(paths, layers=[LAYER]).sizes == pooled.sizes
    handle.remove()
    n_channels = int(whole["channel"].values.max()) + 1
    np.testing.assert_allclose(pooled.values[0], whole.values.reshape(n_channels, -1).mean(1), rtol=1e-5)

    shown = model.register_stimulus_set_hook(lambda stimuli: stimuli[1:2])
    assert list(model(benchmark.stimulus_set[:3], layers=[LAYER])["stimulus_id"].values) == ["1"]
    shown.remove()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["no_layer"]}, "unknown layer 'no_layer'"),
        ({"layers": [LAYER], "require_variance": True}, "gives the same features in every trial"),
    ],
)
def test_what_activations_cannot_be_had(
    model: Any, benchmark: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model(benchmark.stimulus_set[:2], **arguments)


def test_an_area_model_records_from_its_layer(brainscore: Any, model: Any, benchmark: Any) -> None:
    candidate = brainscore.AreaModel(model, {"VISp": LAYER, "VISl": ["features.3", "features.6"]})
    stimuli = benchmark.stimulus_set[:2]
    with pytest.raises(UsageError, match=r"call start_recording\(area\)"):
        candidate.look_at(stimuli)
    candidate.start_task("passive")
    candidate.start_recording("VISl", time_bins=[(0, 100), (100, 250)])
    assembly = candidate.look_at(stimuli, number_of_trials=10)
    assembly.validate()
    assert set(assembly["layer"].values) == {"features.3", "features.6"}
    assert set(assembly["region"].values) == {"VISl"}
    assert [tuple(one) for one in assembly["time_bin"].values] == [(0, 100), (100, 250)]
    np.testing.assert_array_equal(assembly.values[..., 0], assembly.values[..., 1])
    assert candidate.identifier == model.identifier
    with pytest.raises(UsageError, match="unknown area 'VISam'"):
        candidate.start_recording("VISam")
    with pytest.raises(UsageError, match="no task 'label'"):
        candidate.start_task("label", "imagenet")
    with pytest.raises(UsageError, match="visual_degrees=DEGREES"):
        candidate.visual_degrees()
    assert brainscore.AreaModel(model, {}, visual_degrees=8).visual_degrees() == 8


def test_a_benchmark_gives_the_scores_of_mvkit(brainscore: Any, benchmark: Any, dataset: Any) -> None:
    from brainscore_core.benchmarks import Benchmark, score_benchmark

    assert isinstance(benchmark, Benchmark)
    assert benchmark.identifier == "simulated.VISp-pls" and benchmark.region == "VISp"
    assert "@article{nayebi2023mouse" in benchmark.bibtex
    candidate = brainscore.AreaModel(brainscore.ActivationsModel("gabor"), {"VISp": "energy"})
    result = score_benchmark(benchmark, candidate)
    own = mvkit.score("gabor", dataset, ["energy"], ["VISp"], **SETTINGS)
    row = own.headline_layers().set_index("area").loc["VISp"]
    assert float(result) == pytest.approx(row["median"], abs=1e-12)
    assert result.attrs["interval"] == pytest.approx((row["low"], row["high"]), abs=1e-9)
    np.testing.assert_allclose(result.attrs["raw"].values, own.columns["score"], atol=1e-12)
    assert list(result.attrs["raw"]["neuroid_id"].values) == list(own.columns["unit_id"])
    assert float(result.attrs["ceiling"]) == float(benchmark.ceiling) == 1
    assert result.attrs["protocol"] == own.digest()


def test_scores_as_fractions_of_the_consistency_between_animals(brainscore: Any, dataset: Any) -> None:
    benchmark = brainscore.NeuralBenchmark(dataset, "VISp", ceiling="holdout", mapping="ridge", **SETTINGS)
    candidate = brainscore.AreaModel(brainscore.ActivationsModel("pixels"), {"VISp": "pixels"})
    result = benchmark(candidate)
    measured = mvkit.ceiling(dataset, ["VISp"], "holdout", mapping="ridge", **SETTINGS)
    limit = measured.best_layers().set_index("area").loc["VISp"]["median"]
    own = mvkit.score("pixels", dataset, areas=["VISp"], mapping="ridge", **SETTINGS)
    median = own.headline_layers().set_index("area").loc["VISp"]["median"]
    assert float(benchmark.ceiling) == pytest.approx(limit, abs=1e-12)
    assert float(result) == pytest.approx(median / limit, abs=1e-12)


class _Shuffled:
    """A candidate that returns presentations in another order, or some of them only."""

    def __init__(self, candidate: Any, rows: Any) -> None:
        self.candidate, self.rows = candidate, rows

    def start_recording(self, area: str, time_bins: Any) -> None:
        self.candidate.start_recording(area, time_bins)

    def look_at(self, stimuli: Any, number_of_trials: int) -> Any:
        return self.candidate.look_at(stimuli, number_of_trials).isel(presentation=self.rows)


def test_presentations_are_matched_by_stimulus(brainscore: Any, benchmark: Any, dataset: Any) -> None:
    candidate = brainscore.AreaModel(brainscore.ActivationsModel("pixels"), {"VISp": "pixels"})
    order = np.random.default_rng(0).permutation(dataset.n_images)
    assert float(benchmark(_Shuffled(candidate, order))) == float(benchmark(candidate))
    with pytest.raises(
        DataError, match="returned 3 presentations of 3 stimuli; one of each of the 118 images"
    ):
        benchmark(_Shuffled(candidate, order[:3]))


def test_recordings_as_an_assembly(benchmark: Any, dataset: Any) -> None:
    assembly = benchmark.assembly
    assembly.validate()
    responses = dataset.responses("VISp")
    one = assembly.sel(stimulus_id=str(dataset.frame_ids[7]))
    np.testing.assert_array_equal(one.values, responses[:, 7])
    assert list(assembly["neuroid_id"].values) == list(dataset.in_areas(["VISp"]).unit_table()["unit_id"])
    assert set(assembly["region"].values) == {"VISp"}
    assert assembly.attrs["stimulus_set"].get_stimulus("7").name == "7.png"


def test_stimuli_are_written_as_they_are(benchmark: Any, dataset: Any) -> None:
    from PIL import Image

    for row in (0, 117):
        path = Path(benchmark.stimulus_set.get_stimulus(str(dataset.frame_ids[row])))
        np.testing.assert_array_equal(np.asarray(Image.open(path)), dataset.stimuli[row])
