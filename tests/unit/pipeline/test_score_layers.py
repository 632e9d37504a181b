"""What a model's scores are read from: images shown, layers opened, files written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

import mvkit
from mvkit.errors import DataError, MvkitError, UsageError
from mvkit.features.layers import LayerTap
from mvkit.machine import Resources
from mvkit.neural import NeuralDataset, Recording
from mvkit.pipeline.layers import fit_device, open_layers, score_source
from mvkit.pipeline.request import ScoreRequest
from mvkit.pipeline.score import open_run
from mvkit.scoring import Scores, ScoreSettings, pls_torch
from mvkit.scoring.results import results_document

N_IMAGES = 30
BATCH = 4
QUICK = {"n_splits": 2, "n_halves": 3, "n_components": 3}


class Network(nn.Module):
    """A small network."""

    name = "small"

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU())
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        with torch.no_grad():
            self.second.weight *= scale

    def preprocess(self, images: np.ndarray) -> torch.Tensor:
        """Return images as three equal channels."""
        grey = torch.from_numpy(np.asarray(images)).to(torch.float32)[:, None] / 255.0
        return grey.expand(-1, 3, -1, -1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the second layer's features."""
        return self.second(self.first(images))


LAYERS = ("first.0", "first.1", "second")


@pytest.fixture(scope="module")
def dataset() -> NeuralDataset:
    """Two recordings of noise and a little tuning."""
    rng = np.random.default_rng(4)
    stimuli = rng.integers(0, 256, (N_IMAGES, 32, 32), dtype=np.uint8)
    signals = stimuli.reshape(N_IMAGES, -1) / 255.0 @ rng.normal(size=(1024, 5))
    recordings = tuple(
        Recording(
            area=area,
            specimen=specimen,
            unit_ids=np.arange(5),
            responses=(signals + rng.normal(size=(6, N_IMAGES, 5))).astype(np.float32),
        )
        for area, specimen in (("VISp", 1), ("VISl", 2))
    )
    return NeuralDataset(
        name="toy",
        stimuli=stimuli,
        frame_ids=np.arange(N_IMAGES),
        units_of_measure="spikes/s",
        recordings=recordings,
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that networks are shown; counted from outside, as state and hooks have a part
    in what a network is.
    """
    sizes: list[int] = []
    call = LayerTap.__call__

    def counted(self: LayerTap, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes.append(len(inputs))
        return call(self, inputs)

    monkeypatch.setattr(LayerTap, "__call__", counted)
    return sizes


@pytest.fixture
def network() -> Network:
    return Network()


def scored(
    source: object, dataset: NeuralDataset, home: Path, *, layers: tuple[str, ...] = LAYERS, **options: object
) -> np.ndarray:
    resources = {name: options.pop(name) for name in ("cache",) if name in options}
    result = mvkit.score(
        source,
        dataset,
        list(layers),
        resources=Resources(n_jobs=1, batch_size=BATCH, home=home, **resources),
        **{**QUICK, **options},
    )
    return result.table()["score"].to_numpy()


def files_of(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("mapping", ["pls", "one-to-one", "rsa"])
def test_a_repeated_run_shows_the_first_batch_only(
    mapping: str, network: Network, dataset: NeuralDataset, shown: list[int], tmp_path: Path
) -> None:
    fresh = scored(network, dataset, tmp_path / "none", cache=False, mapping=mapping)
    assert sum(shown) == N_IMAGES, "one pass, no image twice"
    assert not (tmp_path / "none").exists()
    first = scored(network, dataset, tmp_path, mapping=mapping)
    shown.clear()
    again = scored(network, dataset, tmp_path, mapping=mapping)
    assert shown == [BATCH]
    np.testing.assert_array_equal(first, fresh)
    np.testing.assert_array_equal(again, fresh)


def test_other_settings_use_the_coordinates_that_are_kept(
    network: Network, dataset: NeuralDataset, shown: list[int], tmp_path: Path
) -> None:
    scored(network, dataset, tmp_path)
    shown.clear()
    ridge = scored(network, dataset, tmp_path, mapping="ridge")
    assert shown == [BATCH]
    np.testing.assert_array_equal(ridge, scored(network, dataset, tmp_path, mapping="ridge", cache=False))


def test_maps_that_need_whole_features_take_them_again(
    network: Network, dataset: NeuralDataset, shown: list[int], tmp_path: Path
) -> None:
    scored(network, dataset, tmp_path, mapping="one-to-one")
    shown.clear()
    found = scored(network, dataset, tmp_path, mapping="one-to-one", halves_seed=1)
    assert sum(shown) == N_IMAGES
    fresh = scored(network, dataset, tmp_path, cache=False, mapping="one-to-one", halves_seed=1)
    np.testing.assert_array_equal(found, fresh)


def test_a_new_layer_and_a_changed_weight(
    network: Network, dataset: NeuralDataset, shown: list[int], tmp_path: Path
) -> None:
    part = scored(network, dataset, tmp_path, layers=("second",))
    both = scored(network, dataset, tmp_path, layers=("first.1", "second"))
    np.testing.assert_array_equal(both[10:], part)
    shown.clear()
    scored(network, dataset, tmp_path, layers=("second", "first.1"))
    assert shown == [BATCH]
    # A prediction does not depend on the scale of the features: the images shown tell.
    other = Network(scale=1.5)
    shown.clear()
    scored(other, dataset, tmp_path, layers=("second",))
    assert sum(shown) == N_IMAGES


def test_given_features_are_found_by_their_content(dataset: NeuralDataset, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = {"x": rng.normal(size=(N_IMAGES, 9)), "y": rng.normal(size=(N_IMAGES, 2, 4))}
    first = scored(features, dataset, tmp_path, layers=("x", "y"))
    kept = files_of(tmp_path)
    assert kept
    again = scored({"other name": features["x"]}, dataset, tmp_path, layers=("other name",))
    np.testing.assert_array_equal(again, first[:10])
    assert [path for path in files_of(tmp_path) if path not in kept] == []
    features["x"][3, 3] += 1e-6
    changed = scored(features, dataset, tmp_path, layers=("x", "y"))
    assert len(files_of(tmp_path)) == len(kept) + 3, "coordinates and two scores of one layer"
    np.testing.assert_array_equal(changed[10:], first[10:])


JOINED = "both=first.1+second"


@pytest.mark.parametrize("mapping", ["pls", "ridge", "one-to-one", "lasso", "rsa", "cka"])
def test_a_joined_layer_scores_as_the_concatenated_features(
    mapping: str, network: Network, dataset: NeuralDataset, tmp_path: Path
) -> None:
    features = mvkit.extract(network, dataset, ["first.1", "second"])
    side_by_side = {"both": np.hstack([features["first.1"], features["second"]])}
    penalty = {"penalty": 1e-2} if mapping == "lasso" else {}
    expected = scored(
        side_by_side, dataset, tmp_path, layers=("both",), cache=False, mapping=mapping, **penalty
    )
    assert np.isfinite(expected).all()
    for source in (network, dict(features)):
        joined = scored(source, dataset, tmp_path, layers=(JOINED,), cache=False, mapping=mapping, **penalty)
        np.testing.assert_allclose(joined, expected, rtol=0, atol=1e-12)
    # Maps of whole features read the same blocks.
    if mapping in ("one-to-one", "rsa", "lasso"):
        np.testing.assert_array_equal(joined, expected)


def test_a_joined_layer_is_made_from_what_is_kept_of_its_parts(
    network: Network, dataset: NeuralDataset, shown: list[int], tmp_path: Path
) -> None:
    single = scored(network, dataset, tmp_path)
    shown.clear()
    joined = scored(network, dataset, tmp_path, layers=(*LAYERS, JOINED, "one=second"))
    assert shown == [BATCH], "coordinates of the parts are cached"
    np.testing.assert_array_equal(joined[: single.size], single)
    fresh = scored(network, dataset, tmp_path, layers=(JOINED,), cache=False)
    np.testing.assert_array_equal(joined[single.size : -10], fresh)
    np.testing.assert_allclose(joined[-10:], single[-10:], rtol=0, atol=1e-12)
    kept = files_of(tmp_path)
    renamed = scored(network, dataset, tmp_path, layers=(JOINED.replace("both", "other"),))
    np.testing.assert_array_equal(renamed, fresh)
    assert files_of(tmp_path) == kept, "the name is no part of the key"
    other_order = scored(network, dataset, tmp_path, layers=("both=second+first.1",))
    np.testing.assert_allclose(other_order, fresh, rtol=0, atol=1e-12)
    assert files_of(tmp_path) != kept


def test_results_say_what_a_joined_layer_is_made_of(network: Network, dataset: NeuralDataset) -> None:
    layers = [JOINED, "first.0"]
    found = mvkit.score(network, dataset, layers, resources=Resources(n_jobs=1, cache=False), **QUICK)
    assert found.layers == ("first.0", "both")
    assert found.context["joined_layers"] == {"both": ["first.1", "second"]}
    features = mvkit.extract(network, dataset, layers)
    assert {name: values.shape[1] for name, values in features.items()} == {"first.0": 196, "both": 250}


@pytest.mark.parametrize("mapping", ["ridge", "one-to-one"])
def test_shuffled_features_are_dealt_out_anew(
    mapping: str, network: Network, dataset: NeuralDataset, tmp_path: Path
) -> None:
    """Each layer scores like the columns that numpy's permutation deals to it, with and without the cache."""
    layers = ["first.0", "second"]
    features = mvkit.extract(network, dataset, layers)
    together = np.hstack([features[name] for name in layers])
    order = np.random.RandomState(4).permutation(together.shape[1])
    n_first = features["first.0"].shape[1]
    dealt = {"first.0": together[:, order[:n_first]], "second": together[:, order[n_first:]]}
    expected = mvkit.score(
        dealt, dataset, resources=Resources(n_jobs=1, cache=False), mapping=mapping, **QUICK
    )
    settings = expected.settings
    for _ in range(2):
        found = score_source(
            network,
            dataset,
            dataset.recordings,
            settings,
            Resources(n_jobs=1, home=tmp_path),
            layers=layers,
            shuffle_seed=4,
        )
        np.testing.assert_allclose(
            found.columns["score"].astype(float), expected.columns["score"].astype(float), rtol=0, atol=1e-10
        )
    assert found.context["shuffle_seed"] == 4
    as_they_are = score_source(
        network,
        dataset,
        dataset.recordings,
        found.settings,
        Resources(n_jobs=1, home=tmp_path),
        layers=layers,
    )
    assert not np.allclose(
        as_they_are.columns["score"].astype(float), found.columns["score"].astype(float), equal_nan=True
    )
    with pytest.raises(UsageError, match="leave joined layers out"):
        open_layers(network, dataset, [JOINED], settings, Resources(cache=False), shuffle_seed=4)


def test_given_features_need_no_torch(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
import mvkit
from mvkit.neural import Recording
rng = np.random.default_rng(0)
features = {"layer": rng.normal(size=(4, 6))}
recordings = [Recording("VISp", 1, [1, 2], rng.normal(size=(4, 4, 2)).astype(np.float32))]
stimuli = np.zeros((4, 8, 8), np.uint8)
about = {"frame_ids": range(4), "units_of_measure": "a.u."}
mouse = mvkit.NeuralDataset("mine", stimuli, recordings=recordings, **about)
scores = mvkit.score(features, mouse, mapping="ridge", n_splits=1, n_halves=1, n_jobs=1)
assert scores.layers == ("layer",)
assert not {"torch", "torchvision", "pandas"} & set(sys.modules)
"""
    environment = {"MVKIT_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_given_features_mean_what_they_say(dataset: NeuralDataset, tmp_path: Path) -> None:
    """Byte order, type and packing change no score; masked, complex and other values are refused."""
    values = np.round(np.random.default_rng(3).normal(size=(N_IMAGES, 9)), 2)

    def scores(given: object) -> np.ndarray:
        found = mvkit.score({"layer": given}, dataset, cache=False, n_jobs=1, **QUICK)
        return found.columns["score"]

    expected = scores(values)
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file["layer"] = np.rint(values * 100).astype(np.int16)
        file["layer"].attrs.update(scale_factor=0.01, _FillValue=np.int16(-9999))
        np.testing.assert_allclose(scores(file["layer"]), expected, rtol=1e-6)
        file["layer"][0, 0] = -9999
        with pytest.raises(MvkitError, match="layer 'layer'"):
            scores(file["layer"])
        file["layer"].attrs["scale_factor"] = "a lot"
        with pytest.raises(DataError, match="'layer': attribute 'scale_factor' is no number"):
            scores(file["layer"])
    for given in (
        values.astype(">f8"),
        values.tolist(),
        np.ma.array(values, mask=False),
        torch.tensor(values, requires_grad=True),
    ):
        np.testing.assert_array_equal(scores(given), expected)
    bfloats = torch.tensor(values).bfloat16()
    np.testing.assert_array_equal(scores(bfloats), scores(bfloats.float().numpy()))
    mask = np.zeros(values.shape, dtype=bool)
    mask[2, 3] = True
    for given, message in (
        (np.ma.array(values, mask=mask), "features of layer 'layer': some values are masked"),
        (values + 0j, "features of layer 'layer': complex128 are no real numbers"),
        (values.astype(str), "are no real numbers"),
        ([[1.0], [2.0, 3.0]], "no array can be made of list"),
        (csr_matrix(values), r"'layer': a sparse csr_matrix; give an array, as its toarray\(\) makes it"),
        (torch.tensor(values).to_sparse(), r"a sparse Tensor; give an array, as its to_dense\(\) makes it"),
        (torch.tensor(values, device="meta"), "no array can be made of Tensor .*meta tensor"),
        (values.astype(object), "object are no real numbers"),
        (values[:, :0], "layer 'layer': features must be numbers of shape"),
        (np.where(mask, np.inf, values), "layer 'layer': feature 3 of image 2 is inf"),
    ):
        with pytest.raises(DataError, match=message):
            scores(given)


def test_resources_stand_for_the_other_options(dataset: NeuralDataset) -> None:
    for options in ({"n_jobs": 1}, {"device": "cuda"}, {"cache": False}):
        with pytest.raises(UsageError, match="resources: says n_jobs, device and cache already"):
            mvkit.score("pixels", dataset, resources=Resources(), **QUICK, **options)
    with pytest.raises(UsageError, match="must be Resources, got int"):
        mvkit.score("pixels", dataset, resources=2, **QUICK)
    with pytest.raises(UsageError, match="cache: must be True or False"):
        mvkit.score("pixels", dataset, cache="no", **QUICK)


def test_a_ceiling_is_kept_unless_nothing_shall_be(dataset: NeuralDataset, tmp_path: Path) -> None:
    from mvkit.pipeline.score import measured_ceiling
    from mvkit.scoring import ScoreSettings

    settings = ScoreSettings(**QUICK, mapping="ridge", ceiling="pairwise")
    pair = [dataset.recordings[0], Recording("VISp", 7, np.arange(5), dataset.recordings[1].responses)]
    found = []
    for cache, was_kept in ((False, False), (True, False), (True, True), (False, False)):
        resources = Resources(n_jobs=1, home=tmp_path, cache=cache)
        ceiling, kept = measured_ceiling(dataset, pair, settings, resources=resources)
        assert kept is was_kept
        found.append(ceiling.columns["score"])
        assert bool(files_of(tmp_path)) is (cache or len(found) > 1)
    for scores in found[1:]:
        np.testing.assert_array_equal(scores, found[0])


CONVERGED = ScoreSettings(pls_stopping="converged")


@pytest.mark.parametrize(
    ("device", "settings", "expected"),
    [
        ("cuda", CONVERGED, "cuda"),
        ("cuda:1", CONVERGED, "cuda:1"),
        ("auto", CONVERGED, None),
        ("cpu", CONVERGED, None),
        ("mps", CONVERGED, None),
        ("cuda", ScoreSettings(), None),
        ("cuda", ScoreSettings(mapping="ridge", pls_stopping="converged"), None),
    ],
)
def test_fits_are_made_on_a_gpu_that_is_asked_for(
    device: str, settings: ScoreSettings, expected: str | None
) -> None:
    assert fit_device(Resources(device=device), settings) == expected


def test_fits_on_a_gpu_are_not_sent_to_a_cluster() -> None:
    with pytest.raises(UsageError, match="device=cuda: with pls_stopping=converged fits are made on this"):
        fit_device(Resources(device="cuda", dask="tcp://head:8786"), CONVERGED)


def test_scores_of_a_device_and_of_the_processor_are_cached_apart(
    dataset: NeuralDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {"layer": np.random.default_rng(0).normal(size=(N_IMAGES, 12))}
    settings = ScoreSettings(**QUICK, pls_stopping="converged")
    calls: list[int] = []
    predict = pls_torch.predict_splits

    def counted(targets: list[np.ndarray], *others: object) -> list[np.ndarray]:
        calls.append(len(targets))
        return predict(targets, *others)

    monkeypatch.setattr(pls_torch, "predict_splits", counted)

    def score() -> Scores:
        resources = Resources(n_jobs=1, home=tmp_path)
        return mvkit.score(features, dataset, settings=settings, resources=resources)

    by_kernel = score()
    assert not calls
    monkeypatch.setattr("mvkit.pipeline.layers.fit_device", lambda resources, settings: "cpu")
    on_device = score()
    assert calls == [2, 2], "both recordings are fitted, all splits at once"
    again = score()
    assert calls == [2, 2], "cached ones are found"
    assert by_kernel.context.get("fit_device") is None
    assert on_device.context["fit_device"] == again.context["fit_device"] == "cpu"
    assert results_document({"features": on_device})["context"]["fit_device"] == "cpu"
    columns = [scores.columns["score"].astype(float) for scores in (by_kernel, on_device, again)]
    np.testing.assert_allclose(columns[1], columns[0], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(columns[2], columns[1])


@pytest.mark.parametrize(
    ("device", "stopping", "expected"),
    [
        ("cuda", "converged", "device: cuda:0 (GPU), for features and fits"),
        ("auto", "converged", "device: cuda:0 (GPU), for features; fits are made on the processor"),
        ("cuda", "reference", "device: cuda:0 (GPU), for features; fits are made on the processor"),
    ],
)
def test_a_run_says_what_the_gpu_does(
    device: str, stopping: str, expected: str, dataset: NeuralDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvkit.pipeline.score.open_default", lambda *arguments, **options: dataset)
    monkeypatch.setattr("mvkit.pipeline.score.choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr("mvkit.pipeline.score.describe_gpu", lambda device: "cuda:0 (GPU)")
    request = ScoreRequest(
        ("pixels",),
        overrides=(f"pls_stopping={stopping}",),
        resources=Resources(device=device),
    )
    notes: list[str] = []
    run = open_run(request, note=notes.append)
    assert notes == [expected]
    assert run.resources.device == device, "as asked for"
