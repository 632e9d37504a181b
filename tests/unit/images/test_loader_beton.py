"""Batches from betons against the same images read with PIL."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from mvkit.errors import DataError
from mvkit.images.beton import has_ffcv
from mvkit.images.loader import BetonSource, ImageSource, open_images
from mvkit.images.prep import PrepSettings, prepare
from mvkit.images.settings import CentreCrop, Crop, RandomCrop, RandomResizedCrop, RawBatch

pytestmark = pytest.mark.skipif(not has_ffcv(), reason="FFCV is not installed")

N_IMAGES = 23
TRAIN = RandomResizedCrop(scale=(0.2, 1.0))
CROPS: tuple[tuple[Crop, int], ...] = (
    (TRAIN, 64),
    (RandomResizedCrop(via_px=None), 40),
    (RandomCrop(resize_px=80, crop_px=70), 70),
    (CentreCrop(), 64),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs and PNGs of many sizes in two classes; grey and progressive ones among them."""
    place = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    for number in range(N_IMAGES):
        width, height = rng.integers(80, 330, 2).tolist()
        left, top = rng.integers(0, 300), rng.integers(0, 90)
        image = photographs[number % 2].crop((left, top, left + width, top + height))
        path = place / "train" / "ab"[number // 12] / f"{number:02}.{'png' if number % 4 == 0 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"quality": 92, "progressive": number % 3 == 0} if path.suffix == ".jpg" else {}
        (image.convert("L") if number % 5 == 0 else image).save(path, **options)
    return place


def _prepared(files: Path, out: Path, **settings: object) -> ImageSource:
    prepare(PrepSettings.model_validate({"name": "test", **settings}), files, out)
    source = open_images(out, "train")
    assert source.kind == "beton"
    return source


@pytest.fixture(scope="module")
def raw(files: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    return _prepared(files, tmp_path_factory.mktemp("raw"), format="raw")


@pytest.fixture(scope="module")
def jpeg(files: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    return _prepared(files, tmp_path_factory.mktemp("jpeg"), format="jpeg")


def _batches(
    source: ImageSource,
    plan: Sequence[NDArray[np.int64]],
    crops: Sequence[tuple[Crop, int]] = CROPS,
    workers: int = 1,
) -> list[RawBatch]:
    with source.batches(plan, crops, seed=4, epoch=2, workers=workers) as batches:
        return list(batches)


def _differences(source: ImageSource, files: Path, *, every: bool) -> list[NDArray[np.int64]]:
    """Return the absolute differences of all crops to those of the files (or of JPEG files only)."""
    order = np.random.default_rng(1).permutation(N_IMAGES)
    # Grey JPEGs are written anew, too: a beton holds colour.
    order = order if every else order[(order % 4 > 0) & (order % 5 > 0)]
    (ours,) = _batches(source, [order])
    (theirs,) = _batches(open_images(files, "train"), [order])
    assert ours.index.tolist() == theirs.index.tolist() == order.tolist()
    assert ours.label is not None
    assert theirs.label is not None
    assert ours.label.tolist() == theirs.label.tolist()
    return [
        np.abs(one.numpy().astype(np.int64) - other.numpy())
        for one, other in zip(ours.crops, theirs.crops, strict=True)
    ]


def test_stored_pixels_are_cropped_as_the_files_are(raw: ImageSource, files: Path) -> None:
    """The same boxes; resized in one pass, so only the rounding between PIL's passes is missing."""
    for difference in _differences(raw, files, every=True):
        assert difference.max() <= 2
        assert difference.mean() < 0.3


def test_jpegs_are_cropped_as_the_files_are(jpeg: ImageSource, files: Path) -> None:
    """JPEGs are kept as they are; turbojpeg's fast transform differs from PIL's exact one by a few levels."""
    for difference in _differences(jpeg, files, every=False):
        assert difference.max() <= 12
        assert difference.mean() < 1.5


def test_a_source_says_what_it_is(raw: ImageSource, jpeg: ImageSource) -> None:
    for source, form in ((raw, "raw"), (jpeg, "JPEG, quality 95")):
        assert source.n_images == N_IMAGES
        assert source.classes == ("a", "b")
        assert not source.has_depth
        assert f"{N_IMAGES} images ({form}, full size)" in source.description
    assert raw.digest != jpeg.digest


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_bits_do_not_depend_on_workers_or_batch_size(form: str, request: pytest.FixtureRequest) -> None:
    source: ImageSource = request.getfixturevalue(form)
    order = np.random.default_rng(2).permutation(np.arange(60) % N_IMAGES)
    (whole,) = _batches(source, [order], workers=0)
    for workers, size in ((0, 7), (1, 60), (2, 60), (2, 1), (2, 11)):
        parts = _batches(source, [order[i : i + size] for i in range(0, 60, size)], workers=workers)
        assert torch.equal(torch.cat([part.index for part in parts]), torch.from_numpy(order))
        for view, crop in enumerate(whole.crops):
            assert torch.equal(torch.cat([part.crops[view] for part in parts]), crop)


def test_batches_belong_to_the_caller(raw: ImageSource) -> None:
    plan = [np.arange(i, i + 5) for i in range(10)]
    with raw.batches(plan, [(TRAIN, 64)], seed=0, epoch=0, workers=2) as batches:
        kept = [(batch.crops[0], batch.crops[0].clone()) for batch in batches]
    assert all(torch.equal(now, then) for now, then in kept)


def test_two_sources_can_be_read_by_turns(raw: ImageSource, jpeg: ImageSource) -> None:
    plan = [np.array([i, i + 1]) for i in range(20)]
    alone = [_batches(source, plan, [(TRAIN, 32)]) for source in (raw, jpeg)]
    with (
        raw.batches(plan, [(TRAIN, 32)], seed=4, epoch=2, workers=2) as first,
        jpeg.batches(plan, [(TRAIN, 32)], seed=4, epoch=2, workers=2) as second,
    ):
        for (a, b), c, d in zip(zip(first, second, strict=True), *alone, strict=True):
            assert torch.equal(a.crops[0], c.crops[0])
            assert torch.equal(b.crops[0], d.crops[0])


def test_images_stored_small_keep_their_crops(files: Path, tmp_path: Path) -> None:
    """The box of a small image is the same part of the picture.

    Not always: whether a box that was drawn fits the image is decided in whole pixels, so that rounding can
    make it fit at one size and be drawn again at another.
    """
    small = _prepared(files, tmp_path, short_side_px=96)
    (ours,) = _batches(small, [np.arange(N_IMAGES)], [(TRAIN, 64)])
    (theirs,) = _batches(open_images(files, "train"), [np.arange(N_IMAGES)], [(TRAIN, 64)])
    correlations = [
        np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]
        for a, b in zip(ours.crops[0].numpy(), theirs.crops[0].numpy(), strict=True)
    ]
    assert np.mean(np.array(correlations) > 0.95) > 0.8
    assert np.median(correlations) > 0.98


def test_depth_is_the_files_depth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        shape = (70 + 5 * number, 80)
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        depth = rng.integers(0, 65536, shape).astype(np.uint16)
        for folder, values in (("train", pixels), ("train_depth", depth)):
            (tmp_path / folder / "data").mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / "data" / f"{number}.png")
    source = _prepared(tmp_path, tmp_path / "out", source="paired_depth")
    assert source.has_depth
    plan = [np.array([2, 0]), np.array([3, 1])]
    for ours, theirs in zip(
        _batches(source, plan), _batches(open_images(tmp_path, "train"), plan), strict=True
    ):
        assert ours.label is None
        assert ours.depth is not None
        assert theirs.depth is not None
        np.testing.assert_allclose(ours.depth, theirs.depth, atol=2e-6)


def _replaced(source: ImageSource, number: int, content: bytes) -> None:
    """Put other bytes in the place of a stored JPEG."""
    assert isinstance(source, BetonSource)
    stored = source._content
    memory = stored.memory.copy()
    begin, size = stored.locations[number, 0], stored.sizes[number]
    assert len(content) <= size
    memory[begin : begin + size] = np.frombuffer(content.ljust(size, b"\0"), np.uint8)
    sizes = stored.sizes.copy()
    sizes[number] = len(content)
    source._content = dataclasses.replace(stored, memory=memory, sizes=sizes)


def _garbled(content: bytes) -> bytes:
    """Put a marker where none is expected: decoders warn and go on."""
    middle = len(content) * 3 // 4
    return content[:middle] + b"\xff\xd3" + content[middle + 2 :]


def _stored(source: ImageSource, number: int) -> tuple[BetonSource, bytes]:
    """Open the beton once more, for content that may be replaced, and return an image's bytes."""
    assert isinstance(source, BetonSource)
    content = source._content
    begin = content.locations[number, 0]
    return BetonSource(content.path), content.memory[begin : begin + content.sizes[number]].tobytes()


def test_a_jpeg_that_decoders_warn_of_is_read_as_pil_reads_it(
    jpeg: ImageSource, caplog: pytest.LogCaptureFixture
) -> None:
    """Prep takes what PIL takes; libffcv reports mere warnings as failures."""
    source, content = _stored(jpeg, 7)
    garbled = _garbled(content)
    _replaced(source, 7, garbled)
    index = np.array([6, 7, 9, 7])
    crops = [(CentreCrop(resize_px=None, crop_px=70), 70)]
    (batch,) = _batches(source, [index], crops)
    assert "image 7: decoded with PIL" in caplog.text
    (whole,) = _batches(jpeg, [index], crops)
    pixels = np.asarray(Image.open(io.BytesIO(garbled)).convert("RGB"))
    top, left = (round((side - 70) / 2) for side in pixels.shape[:2])
    for row in (1, 3):
        np.testing.assert_array_equal(batch.crops[0][row], pixels[top : top + 70, left : left + 70])
        assert not torch.equal(batch.crops[0][row], whole.crops[0][row])
    for row in (0, 2):
        assert torch.equal(batch.crops[0][row], whole.crops[0][row])


@pytest.mark.parametrize("damage", ["cut", "other size"])
def test_a_damaged_jpeg_is_an_error_that_names_it(jpeg: ImageSource, damage: str) -> None:
    source, content = _stored(jpeg, 7)
    if damage == "other size":
        image = Image.open(io.BytesIO(content))
        image.crop((0, 0, image.width, image.height - 20)).save(buffer := io.BytesIO(), "JPEG")
        _replaced(source, 7, _garbled(buffer.getvalue()))
    else:
        _replaced(source, 7, content[: len(content) // 2])
    plan = [np.array([1]), np.array([6, 7])]
    with source.batches(plan, [(TRAIN, 64)], seed=0, epoch=0, workers=2) as batches:
        next(batches)
        with pytest.raises(DataError, match="image 7"):
            next(batches)


@pytest.mark.parametrize("n_bytes", [1, 24_000])
def test_a_beton_that_was_cut_is_refused(raw: ImageSource, tmp_path: Path, n_bytes: int) -> None:
    assert isinstance(raw, BetonSource)
    path = raw._content.path
    content = path.read_bytes()
    (tmp_path / "train.beton").write_bytes(content[:-n_bytes])
    (tmp_path / "train.json").write_bytes(path.with_suffix(".json").read_bytes())
    with pytest.raises(DataError, match="cut"):
        open_images(tmp_path, "train")
