"""Counted crops against areas worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.images.prep import DEPTH_CROPS, enlargement, report_crops
from mvkit.images.settings import RandomCrop, RandomResizedCrop


@pytest.mark.parametrize(("side_px", "low"), [(128, 0.08), (96, 0.2), (80, 0.08), (256, 0.08)])
def test_square_crops_of_square_images(side_px: int, low: float) -> None:
    crop = RandomResizedCrop(scale=(low, 1.0), ratio=(1.0, 1.0))
    found = enlargement(crop, np.array([side_px]), np.array([side_px]), n_draws=40_000)
    # A square of area s has fewer than 64 px a side where s < (64 / side)**2 (to half a pixel of rounding).
    critical = (63.5 / side_px) ** 2
    expected = max(0.0, (critical - low) / (1 - low))
    assert found.fraction == pytest.approx(expected, abs=0.01)
    if expected:
        median_side = side_px * np.sqrt((low + critical) / 2)
        assert found.median_factor == pytest.approx(64 / median_side, rel=0.02)
    else:
        assert found.median_factor is None


def test_fixed_crops_scale_with_the_stored_size() -> None:
    # 224 of 480 px is 56 px where 120 are stored: enlarged by 64 / 56.
    crop = RandomCrop(resize_px=480, crop_px=224)
    small = enlargement(crop, np.array([120]), np.array([160]))
    assert (small.fraction, small.median_factor) == (1.0, pytest.approx(64 / 56))
    assert enlargement(crop, np.array([240]), np.array([320])).fraction == 0


def test_reports_compare_stored_and_source() -> None:
    sizes = [(96, 128, 375, 500)]
    reports = report_crops(sizes, has_depth=False)
    assert len(reports) == 2
    for report in reports:
        assert report.stored.fraction > 0.2 and report.source.fraction == 0
    assert [report.crop for report in report_crops(sizes, has_depth=True)] == list(DEPTH_CROPS)
