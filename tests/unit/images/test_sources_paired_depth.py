"""Pairs of images and depth maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mvkit.errors import DataError
from mvkit.images.sources import open_pairs as open_splits


def test_pairs_share_their_name(make_pairs: Callable[..., Path]) -> None:
    root = make_pairs(3)
    (source,) = open_splits(root)
    assert (source.has_depth, source.n_images, len(source.files)) == (True, 3, 6)
    for item in source.open_items():
        assert item.path is not None and item.depth_path is not None
        assert item.depth_path == root / "train_depth/data" / item.path.name


def test_layouts_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pairs"):
        open_splits(tmp_path)
    (tmp_path / "train/data").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train_depth.*no such folder"):
        open_splits(tmp_path)
    (tmp_path / "train_depth/data").mkdir(parents=True)
    with pytest.raises(DataError, match="no images"):
        open_splits(tmp_path)


def test_what_of_a_pair_is_only_a_name_is_told(make_pairs: Callable[..., Path]) -> None:
    root = make_pairs(4)
    (root / "train_depth/data/1.png").unlink()
    (root / "train_depth/data/2.png").unlink()
    (root / "train_depth/data/2.png").symlink_to("/gone/2.png")
    (root / "train/data/3.png").unlink()
    (root / "train/data/3.png").symlink_to("/gone/3.png")
    (source,) = open_splits(root)
    depths = root / "train_depth/data"
    assert dict(source.absent) == {
        "train/data/1.png": f"its depth map {depths / '1.png'} is missing",
        "train/data/2.png": f"its depth map {depths / '2.png'} is a link to nothing (/gone/2.png)",
        "train/data/3.png": "a link to nothing (/gone/3.png)",
    }
