"""Features against direct computation; independence of batches and threads; one pass; files."""

from __future__ import annotations

import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import mvkit
from mvkit.errors import DataError, UsageError
from mvkit.features import extract, extract_to_file, limit_threads, read_features
from mvkit.features.feature_file import FeatureWriter, hdf5_target

#: Float32 rounding of sums of a few dozen products, relative to the largest value of a layer.
ROUNDING = 1e-6


def assert_equal_up_to_rounding(first, second):
    assert list(first) == list(second)
    for layer in first:
        scale = np.abs(first[layer]).max()
        np.testing.assert_allclose(first[layer], second[layer], rtol=0, atol=ROUNDING * scale)


def test_features_are_the_flattened_outputs_of_preprocessed_images(prepared, pictures):
    features = mvkit.extract(prepared, pictures, "conv")
    with torch.no_grad():
        expected = prepared.features[0](prepared.preprocess(pictures)).flatten(1).numpy()
    np.testing.assert_array_equal(features["conv"], expected)
    assert features["conv"].dtype == np.float32
    assert features.shape_of("conv") == (4, 6, 6)


def test_published_layers_are_the_default_in_the_models_order(prepared, pictures):
    assert prepared.layers == ("VISp2/3", "conv")
    assert list(extract(prepared, pictures)) == ["conv", "VISp2/3"]


def test_a_feature_set_says_where_it_comes_from(prepared, pictures):
    dataset = SimpleNamespace(stimuli=pictures, frame_ids=np.arange(7)[::-1], name="scenes")
    features = extract(prepared, dataset)
    assert features.image_ids == (6, 5, 4, 3, 2, 1, 0)
    assert (features.model_name, features.weights_id) == ("toy", "random:seed=5")
    assert features.preprocessing == json.loads(json.dumps(prepared.preprocess.as_dict()))
    assert features.provenance.stimuli == "scenes"
    assert features.provenance.versions["torch"] == str(torch.__version__)
    assert features.provenance.stimuli_digest == extract(prepared, pictures).provenance.stimuli_digest
    assert features.provenance.stimuli_digest != extract(prepared, pictures[::-1]).provenance.stimuli_digest
    assert "toy, 7 images" in repr(features)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_results_do_not_depend_on_the_batch_size_and_take_one_pass_per_batch(prepared, pictures, batch_size):
    reference = extract(prepared, pictures, "*", batch_size=7)
    prepared.n_passes = 0
    features = extract(prepared, pictures, "*", batch_size=batch_size)
    assert prepared.n_passes == math.ceil(7 / batch_size)
    assert_equal_up_to_rounding(features, reference)


def test_results_do_not_depend_on_the_number_of_threads(prepared, pictures):
    with limit_threads(1):
        one = extract(prepared, pictures, "*")
    with limit_threads(2):
        two = extract(prepared, pictures, "*")
    assert_equal_up_to_rounding(one, two)


def test_layers_behind_the_last_wanted_one_are_not_computed(module_calls):
    model = mvkit.load_model("alexnet_bn_ir", weights="random")
    calls = module_calls(model)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    features = extract(model, images, ["features.3"], batch_size=2)
    assert list(features) == ["features.3"]
    assert features["features.3"].shape == (3, 3136)
    assert calls["features.3"] == 2
    assert not [path for path in calls if path.startswith(("classifier", "features.4"))]


def test_mode_and_gradients_are_those_of_evaluation_and_are_restored(pictures):
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.noise, self.frozen = nn.Dropout(0.5), nn.BatchNorm2d(3)
            self.grad_enabled: list[bool] = []

        def forward(self, images):
            self.grad_enabled.append(torch.is_grad_enabled())
            return self.noise(self.frozen(images))

    model = Watching()
    model.frozen.eval()
    inputs = torch.ones(4, 3, 2, 2)
    features = extract(model, inputs, "final")
    # Eval-mode batch norm of fresh statistics divides by sqrt(1 + eps); dropout does nothing.
    np.testing.assert_allclose(features["final"], 1 / np.sqrt(1 + 1e-5), rtol=1e-6)
    assert model.grad_enabled == [False]
    assert model.training
    assert model.noise.training
    assert not model.frozen.training
    assert model.frozen.num_batches_tracked == 0


def test_mode_and_hooks_are_restored_after_an_error(chain):
    chain.train()
    with pytest.raises(RuntimeError):
        extract(chain, torch.ones(2, 5, 8, 8), "head")
    assert chain.training
    assert all(module.training and not module._forward_hooks for module in chain.modules())


def test_a_network_without_preprocessing_takes_prepared_inputs_only(chain, inputs, pictures):
    features = extract(chain, inputs, "head", batch_size=3)
    with torch.no_grad():
        expected = chain(inputs).numpy()
    np.testing.assert_allclose(features["head"], expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
    assert features.preprocessing == {}
    assert features.model_name == "Chain"
    np.testing.assert_array_equal(extract(chain, inputs.numpy(), "head")["head"], expected)
    with pytest.raises(UsageError, match=r"no \.preprocess.*\n.*prepared already.*\(n, 3, height, width\)"):
        extract(chain, pictures, "head")


def test_the_weights_of_a_users_network_identify_it(chain, inputs):
    before = extract(chain, inputs, "head").weights_id
    assert before.startswith("state:")
    assert extract(chain, inputs, "head").weights_id == before
    with torch.no_grad():
        chain.head.bias[0] += 1
    assert extract(chain, inputs, "head").weights_id != before


def test_double_precision_networks_get_double_inputs_and_give_float32(prepared, pictures):
    single = extract(prepared, pictures)
    double = extract(prepared.double(), pictures)
    assert double["conv"].dtype == np.float32
    assert_equal_up_to_rounding(single, double)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"layers": "featurs.0"}, UsageError, "did you mean 'features.0'"),
        ({"layers": None}, UsageError, "no published list"),
        ({"layers": "head", "batch_size": 0}, UsageError, "batch size must be at least 1"),
        ({"layers": "head", "device": "gpu"}, UsageError, "device gpu: give auto, cpu, cuda"),
        ({"layers": "head", "images": torch.full((2, 3, 8, 8), math.nan)}, DataError, "NaN or infinity"),
    ],
)
def test_wrong_arguments_are_refused(chain, inputs, change, error, reason):
    arguments = {"images": inputs, "layers": "head", **change}
    with pytest.raises(error, match=reason):
        extract(chain, arguments.pop("images"), **arguments)


def test_a_name_stands_for_its_model(pictures):
    by_name, loaded = extract("gabor", pictures), extract(mvkit.load_model("gabor"), pictures)
    np.testing.assert_array_equal(by_name["energy"], loaded["energy"])
    assert by_name.model_name == "gabor"


def test_what_is_no_network_is_refused(pictures):
    with pytest.raises(UsageError, match="cannot extract from int: give a model"):
        extract(3, pictures)


def test_values_that_are_not_finite_are_never_silent(chain, inputs, caplog):
    with torch.no_grad():
        chain.head.bias[0] = math.inf
    with caplog.at_level(logging.WARNING):
        extract(chain, inputs, ["features.0", "head"])
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["head"]


def test_progress_counts_images(prepared, pictures):
    seen: list[tuple[int, int]] = []
    extract(prepared, pictures, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_file_holds_what_memory_would(prepared, pictures, tmp_path, batch_size):
    target = tmp_path / "new" / "features.h5"
    report = extract_to_file(prepared, pictures, target, "*", batch_size=batch_size)
    kept = extract(prepared, pictures, "*", batch_size=batch_size)
    stored = read_features(target)
    assert list(stored) == list(kept) == [layer.name for layer in report.layers]
    assert "VISp2/3" in stored
    assert stored.provenance == kept.provenance == report.provenance
    assert dict(stored.shapes) == dict(kept.shapes)
    for layer in kept:
        np.testing.assert_array_equal(stored[layer], kept[layer])
    assert report.to_json()["n_images"] == 7


def test_a_file_has_the_bytes_of_one_that_is_written_batch_after_batch(prepared, pictures, tmp_path):
    """Written by hand in one thread, with the same number of images in every write."""
    target, by_hand = tmp_path / "features.h5", tmp_path / "by_hand.h5"
    report = extract_to_file(prepared, pictures, target, "*", batch_size=3)
    kept = extract(prepared, pictures, "*", batch_size=3)
    with hdf5_target(by_hand) as (file, guard):
        writer = FeatureWriter(file, guard, len(pictures), 3)
        writer.create_layers({layer.name: layer for layer in report.layers})
        for start in range(0, len(pictures), 3):
            for layer in kept:
                writer.write_rows(layer, start, kept[layer][start : start + 3])
        writer.write_provenance(report.provenance)
    assert target.read_bytes() == by_hand.read_bytes()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_while_features_are_written_leaves_no_file(prepared, pictures, tmp_path, monkeypatch, error):
    def fail(writer, layer, start, rows):
        if start == 2:
            raise error

    monkeypatch.setattr(FeatureWriter, "write_rows", fail)
    with pytest.raises(type(error)):
        extract_to_file(prepared, pictures, tmp_path / "features.h5", batch_size=2)
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_on_request_and_never_left_half_written(prepared, pictures, tmp_path):
    target = tmp_path / "features.h5"
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        extract_to_file(prepared, pictures, target)
    with pytest.raises(KeyboardInterrupt):
        extract_to_file(prepared, pictures, target, batch_size=2, overwrite=True, progress=_interrupt)
    assert target.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [target]
    extract_to_file(prepared, pictures, target, overwrite=True)
    assert read_features(target).n_images == 7
    with pytest.raises(UsageError, match="is a folder"):
        extract_to_file(prepared, pictures, tmp_path, overwrite=True)


def _interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt
