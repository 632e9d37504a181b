"""Pixels of image files: Pillow's, whoever decodes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from mvkit.errors import DataError
from mvkit.images import sources
from mvkit.images.sources import read_pixels, read_rgb

#: Size in px -> mode and how the file is written.
FILES = {
    (203, 117): ("RGB", {"format": "JPEG", "subsampling": 0}),
    (202, 118): ("RGB", {"format": "JPEG", "subsampling": 1, "quality": 30}),
    (201, 119): ("RGB", {"format": "JPEG", "subsampling": 2, "progressive": True}),
    (1, 1): ("RGB", {"format": "JPEG"}),
    (64, 40): ("L", {"format": "JPEG"}),
    (65, 41): ("CMYK", {"format": "JPEG"}),
    (66, 42): ("RGB", {"format": "PNG"}),
    (67, 43): ("P", {"format": "PNG"}),
}


@pytest.mark.parametrize("library", [True, False], ids=["libturbojpeg", "Pillow"])
@pytest.mark.parametrize("size", FILES)
def test_pixels_are_pillows(
    tmp_path: Path, size: tuple[int, int], library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode, options = FILES[size]
    path = tmp_path / "image"
    Image.fromarray(load_sample_image("flower.jpg")).resize(size).convert(mode).save(path, **options)
    if not library:
        monkeypatch.setattr(sources, "_turbojpeg", lambda: None)
    pixels = read_pixels(str(path))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(path).convert("RGB")))
    np.testing.assert_array_equal(pixels, np.asarray(read_rgb(str(path))))


def test_pillow_judges_what_libturbojpeg_does_not_accept(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(load_sample_image("flower.jpg")).save(path, progressive=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"image\.jpg: cannot be read as an image: .*truncated"):
        read_pixels(str(path))
    # Bytes too many before a scan are a warning.
    path.write_bytes(b"\x00\x00\xff\xda".join(content.rsplit(b"\xff\xda", 1)))
    expected = np.asarray(Image.open(path))
    np.testing.assert_array_equal(read_pixels(str(path)), expected)
    if (library := sources._turbojpeg()) is not None:
        assert (
            sources._decode_jpeg(library, path.read_bytes(), (expected.shape[1], expected.shape[0])) is None
        )
