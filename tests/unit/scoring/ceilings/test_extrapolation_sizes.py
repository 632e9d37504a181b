"""Which numbers of source units and images are measured."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.scoring.extrapolation import image_fault, image_sizes, spaced, unit_sizes
from mvkit.scoring.settings import ScoreSettings

RIDGE = ScoreSettings(mapping="ridge")


def test_sizes_grow_by_equal_factors():
    assert spaced(4, 128, 6).tolist() == [4, 8, 16, 32, 64, 128]
    assert spaced(3, 5, 10).tolist() == [3, 4, 5]


def test_areas_share_sizes_up_to_the_poorest_and_go_on_to_all_of_their_own():
    sizes = unit_sizes({"VISp": 512, "VISl": 128}, RIDGE, 6)
    assert sizes["VISl"].tolist() == [4, 8, 16, 32, 64, 128]
    assert sizes["VISp"][:6].tolist() == sizes["VISl"].tolist()
    assert sizes["VISp"].tolist()[6:] == [256, 512]


def test_pls_needs_as_many_source_units_as_components():
    settings = ScoreSettings(n_components=25)
    sizes = unit_sizes({"VISp": 200, "VISl": 24}, settings, 5)
    assert sizes["VISl"].size == 0
    assert sizes["VISp"][0] == 25 and sizes["VISp"][-1] == 200
    # An area that cannot take part does not hold back the others.
    assert unit_sizes({"VISp": 200}, settings, 5)["VISp"].tolist() == sizes["VISp"].tolist()


def test_no_area_with_enough_units_has_no_sizes():
    assert all(not part.size for part in unit_sizes({"VISp": 2}, RIDGE, 6).values())


def test_images_begin_where_the_map_can_be_fitted():
    settings = ScoreSettings(n_components=25, train_fraction=0.5)
    sizes = image_sizes(118, settings, 6)
    assert np.ceil(0.5 * sizes[0]) == 25
    assert sizes[-1] == 118 and sizes.size == 6
    assert image_fault(int(sizes[0]), settings) == ""


@pytest.mark.parametrize(
    ("n_images", "settings", "expected"),
    [
        (48, ScoreSettings(n_components=25), "24 training images of 48; pls needs 25"),
        (49, ScoreSettings(n_components=25), ""),
        (3, RIDGE, "1 test images of 3; at least two are needed"),
        (2, RIDGE, "1 training images of 2; ridge needs 2"),
        (2, ScoreSettings(mapping="rsa"), "2 images have no dissimilarities to compare"),
        (3, ScoreSettings(mapping="rsa"), ""),
    ],
)
def test_too_few_images_are_told_why(n_images, settings, expected):
    assert image_fault(n_images, settings) == expected
