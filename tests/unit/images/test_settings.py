"""What recipes may say of views."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mvkit.images.settings import VALIDATION, CentreCrop, RandomResizedCrop, View, ViewsSettings


def views(crop: Any = None, steps: Any = (), **others: Any) -> dict[str, Any]:
    return {"views": [{"crop": crop or {"name": "random_resized"}, "steps": list(steps)}], **others}


PROBLEMS = [
    (
        {"name": "random_resized", "scale": [1.0, 0.2]},
        (),
        "scale",
        "must not exceed the second, got 1 and 0.2",
    ),
    ({"name": "random_resized", "scale": [0.0, 1.0]}, (), "scale", "greater than 0"),
    ({"name": "random_resized", "scale": [0.2, 1.5]}, (), "scale", "less than or equal to 1"),
    ({"name": "random_resized", "ratio": [1.3, 0.7]}, (), "ratio", "must not exceed the second"),
    ({"name": "random_resized", "ratio": [-1.0, 0.7]}, (), "ratio", "greater than 0"),
    (
        {"name": "random", "resize_px": 30, "crop_px": 40, "pad_px": 4},
        (),
        "random",
        r"crop_px \(40\) .* \(38\)",
    ),
    ({"name": "centre", "resize_px": 64}, (), "centre", r"crop_px \(224\) must not exceed resize_px \(64\)"),
    (None, [{"name": "blur", "sigma_px": [2.0, 0.1]}], "sigma_px", "must not exceed the second"),
    (None, [{"name": "blur", "sigma_px": [0.0, 0.1]}], "sigma_px", "greater than 0"),
    (None, [{"name": "colour_jitter", "hue": 0.6}], "hue", "less than or equal to 0.5"),
    (None, [{"name": "flip", "probability": 1.2}], "probability", "less than or equal to 1"),
    (None, [{"name": "solarise", "threshold": 300}], "threshold", "less than or equal to 256"),
]


@pytest.mark.parametrize(("crop", "steps", "where", "message"), PROBLEMS)
def test_impossible_values_are_refused_where_they_stand(
    crop: Any, steps: Any, where: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=message) as refusal:
        ViewsSettings.model_validate(views(crop, steps))
    assert any(where in error["loc"] for error in refusal.value.errors())


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"expand": {"name": "patches"}}, "size_px must be 255 for 3 x 3 cells of cell_px 85, got 64"),
        (
            {"expand": {"name": "patches", "patch_px": 90}, "size_px": 255},
            r"patch_px \(90\) .* cell_px \(85\)",
        ),
        ({"std": [0.2, 0.0, 0.2]}, "greater than 0"),
        ({"size": 3}, "Extra inputs are not permitted"),
    ],
)
def test_parts_must_fit_each_other(others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ViewsSettings.model_validate(views(**others))


def test_what_fits_is_accepted() -> None:
    cifar = {"name": "random", "crop_px": 32, "pad_px": 4}
    assert ViewsSettings.model_validate(views(cifar)).views[0].crop.crop_px == 32
    puzzle = {"name": "random", "resize_px": 292, "crop_px": 255}
    settings = ViewsSettings.model_validate(views(puzzle, expand={"name": "patches"}, size_px=255))
    assert settings.expand is not None and settings.expand.patch_px == 64


def test_copies_are_written_out_in_order() -> None:
    first, second = View(crop=RandomResizedCrop(), copies=2), View(crop=CentreCrop())
    assert ViewsSettings(views=(first, second)).each() == (first, first, second)
    assert VALIDATION.each() == (View(crop=CentreCrop(resize_px=256, crop_px=224)),)
