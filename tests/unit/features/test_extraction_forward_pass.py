"""A pass through a network: every image once, the same bits in memory and on disk, whatever is asked for."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch
from torch import nn

from mvkit.errors import DataError, UsageError
from mvkit.features import extract, extraction
from mvkit.features.buffer import StoredLayer
from mvkit.features.extraction import ForwardPass, images_per_batch, later_images_per_batch
from mvkit.features.stimuli import open_stimuli


class Blocks(nn.Module):
    """A block that runs three times, changes in place, and gives a dict; pictures go in as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.head = Head()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.stem(images)
        for _ in range(3):
            hidden = self.block(hidden)
        return self.head(hidden)


class Head(nn.Module):
    def forward(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": hidden.mean((2, 3)), "top": hidden.amax((2, 3))}


@pytest.fixture()
def blocks() -> Blocks:
    torch.manual_seed(3)
    return Blocks()


@pytest.fixture()
def images() -> np.ndarray:
    """Eleven prepared inputs of 12 x 12 px."""
    return np.random.default_rng(5).standard_normal((11, 3, 12, 12)).astype(np.float32)


def whole(forward_pass: ForwardPass, names, tmp_path, **options) -> dict[str, np.ndarray]:
    with forward_pass.features(names, scratch=tmp_path, **options) as features:
        return {name: np.array(values) for name, values in features.items()}


@pytest.mark.parametrize("batch_size", [None, 1, 4, 11, 50])
@pytest.mark.parametrize("layers", ["*", "block", ["stem", "head:top"]])
def test_every_image_goes_through_once(blocks, images, tmp_path, batch_size, layers):
    shown = []
    blocks.stem.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].clone()))
    forward_pass = ForwardPass(blocks, open_stimuli(images), layers, batch_size=batch_size)
    whole(forward_pass, list(forward_pass.first_batch().layers), tmp_path)
    np.testing.assert_array_equal(torch.cat(shown).numpy(), images)


def test_features_are_what_a_hook_sees(blocks, images, tmp_path):
    forward_pass = ForwardPass(blocks, open_stimuli(images), "*", batch_size=4)
    names = list(forward_pass.first_batch().layers)
    found = whole(forward_pass, names, tmp_path)
    expected: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for start in range(0, 11, 4):
            hidden = blocks.stem(torch.from_numpy(images[start : start + 4]))
            expected.setdefault("stem", []).append(hidden)
            for call in range(3):
                inner = blocks.block[0](hidden)
                hidden = inner.relu()
                expected.setdefault(f"block.0[{call}]", []).append(inner)
                expected.setdefault(f"block.1[{call}]", []).append(hidden)
                expected.setdefault(f"block[{call}]", []).append(hidden)
            for part, value in (("mean", hidden.mean((2, 3))), ("top", hidden.amax((2, 3)))):
                for name in (f"head:{part}", f"final:{part}"):
                    expected.setdefault(name, []).append(value)
    assert sorted(names) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], torch.cat(values).flatten(1).numpy(), err_msg=name)


def test_bits_do_not_depend_on_the_layers_asked_for_or_on_where_they_lie(blocks, images, tmp_path):
    everything = ForwardPass(blocks, open_stimuli(images), "*")
    names = list(everything.first_batch().layers)
    in_memory = whole(everything, names, tmp_path)
    on_disk = whole(ForwardPass(blocks, open_stimuli(images), "*"), names, tmp_path, in_memory=0)
    for name in names:
        np.testing.assert_array_equal(in_memory[name], on_disk[name])
        forward_pass = ForwardPass(blocks, open_stimuli(images), "*")
        forward_pass.first_batch()
        np.testing.assert_array_equal(whole(forward_pass, [name], tmp_path)[name], in_memory[name])
    extracted = extract(blocks, images, "*")
    assert list(extracted) == names
    for name in names:
        np.testing.assert_array_equal(extracted[name], in_memory[name])


def test_a_second_pass_gives_the_same_and_shows_the_images_again(blocks, images, tmp_path):
    forward_pass = ForwardPass(blocks, open_stimuli(images), "block", batch_size=3)
    first = forward_pass.first_rows()
    one = whole(forward_pass, ["block[2]"], tmp_path)
    two = whole(forward_pass, ["block[2]"], tmp_path)
    np.testing.assert_array_equal(one["block[2]"], two["block[2]"])
    np.testing.assert_array_equal(first["block[2]"], one["block[2]"][:3])


def test_layers_on_disk_are_read_by_columns_and_are_gone_afterwards(blocks, images, tmp_path):
    forward_pass = ForwardPass(blocks, open_stimuli(images), ["stem", "block.0"])
    names = list(forward_pass.first_batch().layers)
    reference = extract(blocks, images, ["stem", "block.0"])
    with forward_pass.features(names, scratch=tmp_path / "here", in_memory=0) as features:
        for name in names:
            layer = features[name]
            assert isinstance(layer, StoredLayer)
            assert layer.shape == reference[name].shape
            np.testing.assert_array_equal(layer.columns(5, 77), reference[name][:, 5:77])
            np.testing.assert_array_equal(layer.columns(570, 600), reference[name][:, 570:600])
        assert len(list((tmp_path / "here").rglob("*.f32"))) == len(names)
    assert not list((tmp_path / "here").iterdir())


def test_the_modes_of_a_network_are_put_back(blocks, images, tmp_path):
    blocks.train()
    blocks.stem.eval()
    forward_pass = ForwardPass(blocks, open_stimuli(images), "stem")
    whole(forward_pass, ["stem"], tmp_path)
    assert blocks.training and blocks.block.training and not blocks.stem.training


def test_values_that_are_not_finite_are_told_once(blocks, images, tmp_path, caplog):
    with torch.no_grad():
        blocks.stem.bias[0] = float("nan")
    with caplog.at_level(logging.WARNING, "mvkit"):
        whole(ForwardPass(blocks, open_stimuli(images), "stem", batch_size=3), ["stem"], tmp_path)
    assert [record.getMessage()[:40] for record in caplog.records] == [
        "layer 'stem': values that are not finite"
    ]


def test_a_network_in_double_precision_is_computed_on_the_processor_of_a_mac(blocks, images, monkeypatch):
    expected = extraction.extract(blocks.double(), images, "*")
    monkeypatch.setattr(extraction, "parse_device", lambda device: torch.device(device))
    features = extraction.extract(blocks, images, "*", device="mps")
    for name in expected:
        np.testing.assert_array_equal(features[name], expected[name])


def test_memory_that_an_apple_device_has_not_is_told_like_any_other(blocks, images, monkeypatch):
    def fail(module, arguments):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")

    blocks.register_forward_pre_hook(fail)
    with pytest.raises(DataError, match=r"does not fit in memory .*MPS backend"):
        extraction.extract(blocks, images, "*")


def test_features_that_do_not_fit_in_memory_are_refused_with_numbers(blocks, images, monkeypatch):
    needed = 11 * 4 * 12 * 12 * 4
    monkeypatch.setattr(extraction, "available_memory", lambda: needed)
    assert list(extract(blocks, images, "stem")) == ["stem"]
    monkeypatch.setattr(extraction, "available_memory", lambda: needed - 1)
    with pytest.raises(DataError, match=r"1 layers for 11 images take 0\.00 GB, .*\nwrite them to a file"):
        extract(blocks, images, "stem")


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_that_does_not_fit_in_memory_is_told(blocks, images, tmp_path, batch):
    passes = []

    def hungry(module, inputs):
        passes.append(len(inputs[0]))
        if len(passes) == batch:
            torch.empty(2**62, dtype=torch.uint8)

    blocks.stem.register_forward_pre_hook(hungry)
    advice = r"give batch_size=1 \(mvkit\.score: resources=Resources\(batch_size=1\)\), or fewer layers"
    told = rf"a batch of 4 images does not fit in memory .*allocate.*\n{advice}"
    with pytest.raises(DataError, match=told):
        forward_pass = ForwardPass(blocks, open_stimuli(images), "stem", batch_size=4)
        whole(forward_pass, list(forward_pass.first_batch().layers), tmp_path, in_memory=0)
    assert not list(tmp_path.iterdir())


def test_other_errors_of_a_network_stay_what_they_are(blocks, images, tmp_path):
    def broken(module, inputs):
        raise RuntimeError("mat1 and mat2 cannot be multiplied")

    blocks.stem.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        ForwardPass(blocks, open_stimuli(images), "stem").first_batch()


def test_a_network_is_needed():
    with pytest.raises(UsageError, match="a network is needed, not str 'alexnet'"):
        ForwardPass("alexnet", open_stimuli(np.zeros((1, 3, 4, 4), np.float32)), "*")


def test_batches_have_about_as_many_pixels_whatever_their_size():
    assert images_per_batch(None, (3, 64, 64)) == 32
    assert images_per_batch(None, (3, 224, 224)) == 2
    assert images_per_batch(None, (3, 8, 8)) == 64
    assert images_per_batch(None, (3, 4096, 4096)) == 1
    assert images_per_batch(7, (3, 224, 224)) == 7
    with pytest.raises(UsageError, match="batch size must be at least 1, got 0"):
        images_per_batch(0, (3, 8, 8))


def test_later_batches_go_by_the_largest_output():
    """float32 maps of the first convolution at 224 px: AlexNet, ResNet18, VGG16."""
    assert later_images_per_batch(2, 4 * 64 * 55 * 55) == 16
    assert later_images_per_batch(2, 4 * 64 * 112 * 112) == 8
    assert later_images_per_batch(2, 4 * 64 * 224 * 224) == 2
    assert later_images_per_batch(2, 2**40) == 2
    assert later_images_per_batch(2, 0) == 16
    assert later_images_per_batch(32, 1000) == 32


def test_the_first_batch_is_small_and_later_ones_end_at_multiples_of_their_size(tmp_path):
    images = np.random.default_rng(0).standard_normal((37, 3, 256, 256)).astype(np.float32)
    network, shown = nn.Sequential(nn.AvgPool2d(4), nn.AdaptiveAvgPool2d(2)), []
    network.register_forward_pre_hook(lambda module, inputs: shown.append(len(inputs[0])))
    forward_pass = ForwardPass(network, open_stimuli(images), "final")
    assert forward_pass.images_per_batch == 16
    assert forward_pass.first_batch().n_images == 2
    found = whole(forward_pass, ["final"], tmp_path)["final"]
    assert shown == [2, 14, 16, 5]
    expected = images.reshape(37, 3, 2, 128, 2, 128).mean(axis=(3, 5), dtype=np.float64).reshape(37, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_features_are_consumed_in_order_beside_the_network_and_errors_end_the_pass(blocks, images):
    forward_pass = ForwardPass(blocks, open_stimuli(images), "stem", batch_size=2)
    starts, threads, last = [], set(), 4

    def consume(start, rows):
        starts.append(start)
        threads.add(threading.get_ident())
        if start == last:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        forward_pass.run(consume)
    assert starts == [0, 2, 4]
    assert threads and threading.get_ident() not in threads
    starts.clear()
    last = 10  # the last batch
    with pytest.raises(OSError, match="No space left"):
        forward_pass.run(consume)
    assert starts == [0, 2, 4, 6, 8, 10]


def test_an_image_that_cannot_be_read_ends_the_pass_and_its_threads(blocks, images):
    images[7] = np.nan
    forward_pass = ForwardPass(blocks, open_stimuli(images), "stem", batch_size=2)
    starts = []
    with pytest.raises(DataError, match="NaN or infinity"):
        forward_pass.run(lambda start, rows: starts.append(start))
    assert starts == [0, 2, 4]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mvkit-")]


def test_a_stored_layer_that_was_cut_is_refused(tmp_path):
    path = tmp_path / "0.f32"
    np.arange(6, dtype="<f4").tofile(path)
    layer = StoredLayer(path, (2, 3))
    np.testing.assert_array_equal(np.asarray(layer), [[0, 1, 2], [3, 4, 5]])
    np.arange(5, dtype="<f4").tofile(path)
    with pytest.raises(DataError, match="features end early"):
        layer.columns(0, 3)
    path.unlink()
    with pytest.raises(DataError, match="features cannot be read"):
        layer.columns(0, 1)
