"""What is refused before anything is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring.run import check_recordings
from mvkit.scoring.settings import ScoreSettings

SETTINGS = ScoreSettings(n_components=3)


def test_the_number_of_images_is_returned(recording: Callable[..., Any]) -> None:
    assert check_recordings([recording(np.zeros((2, 8, 3)))], SETTINGS) == 8


def test_wrong_recordings_are_named(recording: Callable[..., Any]) -> None:
    good = recording(np.zeros((2, 8, 3)))
    with pytest.raises(UsageError, match="no recordings"):
        check_recordings([], SETTINGS)
    with pytest.raises(DataError, match=r"VISl, specimen 4: .*\(2, 9, 3\), expected \(n_trials, 8, 3\)"):
        check_recordings([good, recording(np.zeros((2, 9, 3)), area="VISl", specimen=4)], SETTINGS)
    with pytest.raises(DataError, match="specimen 5: responses hold infinite values"):
        check_recordings([good, recording(np.full((2, 8, 3), np.inf), specimen=5)], SETTINGS)


def test_components_need_training_images(recording: Callable[..., Any]) -> None:
    with pytest.raises(FitError, match="pls: 5 components cannot be fitted on 4 training images"):
        check_recordings([recording(np.zeros((2, 8, 3)))], ScoreSettings(n_components=5))
