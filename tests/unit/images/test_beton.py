"""The file's layout against FFCV's own definitions, and depth maps against arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.images import beton


@pytest.mark.parametrize("has_depth", [False, True])
def test_layout_is_ffcvs(has_depth: bool, ffcv: Any) -> None:
    types, fields = ffcv("ffcv.types"), ffcv("ffcv.fields")
    ours = {"image": fields.RGBImageField, "label": fields.IntField, "index": fields.IntField}
    if has_depth:
        ours["depth"] = fields.BytesField
    assert tuple(ours) == beton.field_names(has_depth=has_depth)
    assert beton.metadata_row(has_depth=has_depth) == types.get_metadata_type(
        [kind() for kind in ours.values()]
    )
    assert all(types.TYPE_ID_HANDLER[beton.TYPE_IDS[name]] is kind for name, kind in ours.items())
    assert (
        types.HeaderType,
        types.FieldDescType,
        types.ALLOC_TABLE_TYPE,
    ) == (beton.HEADER, beton.FIELD, beton.ALLOCATION)
    modes = ffcv("ffcv.fields.rgb_image").IMAGE_MODES
    assert (modes["jpg"], modes["raw"]) == (beton.JPEG_MODE, beton.RAW_MODE)


@pytest.mark.parametrize(("kind", "greatest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_depth_is_a_share_of_the_greatest_value(kind: type, greatest: int) -> None:
    depth: NDArray[Any] = np.array([[0, 1, greatest], [2, greatest // 2, 7]], kind)
    content = beton.pack_depth(depth)
    assert content[:8] == np.array([2, 3, np.dtype(kind).itemsize, greatest], "<u2").tobytes()
    expected = np.array([[0, 1, greatest], [2, greatest // 2, 7]], np.float64) / greatest
    assert beton.unpack_depth(content) == pytest.approx(expected, rel=1e-6)
    # A buffer of a loader may be longer than this image needs.
    assert beton.unpack_depth(content + b"\xff" * 5).shape == (2, 3)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, beton.pack_depth(np.ones((4, 4), np.uint8))[:-1]])
def test_other_bytes_are_no_depth(content: bytes) -> None:
    with pytest.raises(DataError, match="no depth map"):
        beton.unpack_depth(content)
