"""What recordings and settings must satisfy before anything is scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.settings import RecordingLike, ScoreSettings


def check_recordings(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> int:
    """Refuse recordings that cannot be scored together; return their number of images.

    Raises
    ------
    UsageError
        If there are none.
    DataError
        If their shapes do not agree or responses are infinite.
    FitError
        If there are fewer training images than the mapping needs.
    """
    if not recordings:
        raise UsageError("nothing to score: no recordings")
    n_images = int(recordings[0].responses.shape[1])
    for recording in recordings:
        where = f"{recording.area}, specimen {recording.specimen}"
        shape = (n_images, len(recording.unit_ids))
        if recording.responses.ndim != 3 or recording.responses.shape[1:] != shape:
            raise DataError(
                f"{where}: responses have shape {recording.responses.shape}, "
                f"expected (n_trials, {n_images}, {len(recording.unit_ids)})"
            )
        if np.isinf(recording.responses).any():
            raise DataError(f"{where}: responses hold infinite values; use NaN for missing ones")
    n_train = int(np.ceil(settings.train_fraction * n_images))
    needed = MAPPINGS[settings.mapping].n_train_needed(settings)
    if n_train < needed:
        raise FitError(
            f"{settings.mapping}: {needed} components cannot be fitted on {n_train} training images "
            f"(of {n_images}); lower n_components or raise train_fraction"
        )
    return n_images
