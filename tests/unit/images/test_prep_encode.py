"""One image: sizes, colours, what is kept, and what is refused with a reason."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional

from mvkit.images import beton
from mvkit.images.beton import Encoded
from mvkit.images.prep import PrepSettings, Unreadable, encode, stored_size
from mvkit.images.sources import Item

RAW = PrepSettings(name="raw", resampling="bilinear", page_mib=2)
JPEG = PrepSettings(name="jpeg", format="jpeg", resampling="bilinear", page_mib=2)


def _small(settings: PrepSettings, **changes: Any) -> PrepSettings:
    return settings.model_copy(update=changes)


def _encoded(path: Path, settings: PrepSettings) -> Encoded:
    result = encode(Item(path.name, 3, path=path), settings)
    assert isinstance(result, Encoded), result
    return result


@given(
    height=st.integers(1, 3000), width=st.integers(1, 3000), short=st.one_of(st.none(), st.integers(1, 600))
)
def test_short_side_is_what_is_limited(height: int, width: int, short: int | None) -> None:
    stored = stored_size(height, width, short)
    if short is None or min(height, width) <= short:
        assert stored == (height, width)
    else:
        oracle = functional._compute_resized_output_size((height, width), [short])
        assert list(stored) == oracle


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb_as_pillow_does(
    tmp_path: Path, mode: str, generator: np.random.Generator
) -> None:
    pixels = generator.integers(0, 256, (9, 13, 3)).astype(np.uint8)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray(pixels).convert(mode).save(path)
    image = _encoded(path, RAW)
    with Image.open(path) as opened:
        assert image.content == opened.convert("RGB").tobytes()
    assert (image.height, image.width, image.label, image.mode) == (9, 13, 3, beton.RAW_MODE)
    assert image.sha256 == hashlib.sha256(path.read_bytes()).digest()


def test_resizing_is_pillows(tmp_path: Path, generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 256, (40, 61, 3)).astype(np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    image = _encoded(path, _small(RAW, short_side_px=20, resampling="lanczos"))
    expected = Image.fromarray(pixels).resize((30, 20), Image.Resampling.LANCZOS)
    assert (image.height, image.width, image.source_height, image.source_width) == (20, 30, 40, 61)
    assert image.content == expected.tobytes()


def test_a_jpeg_that_fits_is_kept(tmp_path: Path, generator: np.random.Generator) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(generator.integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(path, quality=60)
    assert _encoded(path, JPEG).content == path.read_bytes()
    assert _encoded(path, _small(JPEG, short_side_px=10)).content != path.read_bytes()
    # FFCV decodes to three channels whatever the file has, and cannot decode CMYK.
    for mode in ("L", "CMYK"):
        with Image.open(path) as opened:
            opened.convert(mode).save(tmp_path / f"{mode}.jpg")
        stored = _encoded(tmp_path / f"{mode}.jpg", JPEG)
        with Image.open(io.BytesIO(stored.content)) as opened:
            assert (opened.mode, opened.size, stored.mode) == ("RGB", (20, 20), beton.JPEG_MODE)


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _spoil(path: Path) -> None:
    path.write_bytes(b"not an image")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("settings", [RAW, JPEG])
@pytest.mark.parametrize("damage", [_cut, _spoil, _empty, Path.unlink])
def test_damaged_files_are_results_with_a_reason(
    tmp_path: Path, suffix: str, settings: PrepSettings, damage: Any
) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.effect_noise((40, 40), 50).convert("RGB").save(path)
    damage(path)
    result = encode(Item("where/image", 0, path=path), settings)
    assert isinstance(result, Unreadable)
    assert result.name == "where/image" and result.reason and "\n" not in result.reason


def test_sixteen_bits_are_not_cut_to_eight(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(path)
    result = encode(Item("i", 0, path=path), RAW)
    assert isinstance(result, Unreadable) and "eight bits" in result.reason


def test_more_than_a_page_is_refused_with_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (1000, 1000)).save(path)
    result = encode(Item("i", 0, path=path), RAW)
    assert isinstance(result, Unreadable)
    assert "3000000 bytes" in result.reason and "page_mib" in result.reason


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_depth_is_thinned_not_mixed(tmp_path: Path, kind: str) -> None:
    depth = np.arange(20 * 30).reshape(20, 30).astype(kind)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "image.png")
    item = Item("i", -1, path=tmp_path / "image.png", depth_path=tmp_path / "depth.png")
    whole, half = encode(item, RAW), encode(item, _small(RAW, short_side_px=10))
    assert isinstance(whole, Encoded) and isinstance(half, Encoded)
    assert whole.depth == beton.pack_depth(depth)
    # Of every pair of rows and columns the one at the middle of the new pixel.
    assert half.depth == beton.pack_depth(depth[1::2, 1::2])


def test_depth_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "image.png")
    item = Item("i", -1, path=tmp_path / "image.png", depth_path=tmp_path / "depth.png")
    for picture, reason in (
        (None, "missing"),
        (Image.new("L", (20, 20)), "20 x 20"),
        (Image.new("RGB", (30, 20)), "one"),
    ):
        if picture is not None:
            picture.save(tmp_path / "depth.png")
        result = encode(item, RAW)
        assert isinstance(result, Unreadable) and reason in result.reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"/annex/objects/SHA256E-s9--a.png\n", "datalad get"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs"),
    ],
)
def test_contents_that_were_not_fetched_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    result = encode(Item("a", 0, path=tmp_path / "a.png"), RAW)
    assert isinstance(result, Unreadable)
    assert words in result.reason
