"""Images that a session file itself holds, where no folder of images lies beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TEMPLATES = "stimulus/templates"


def stored_images(file: Any, stimulus: str, frame_ids: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Return the images of a stimulus, uint8 (n_frames, height, width); None if the file has none.

    The Allen Institute's Neuropixels files hold none; files that others made may, as a series named after
    the stimulus (``natural_scenes``, ``natural_scenes_image_stack``) whose rows are frames.

    Parameters
    ----------
    file
        Open HDF5 file.
    stimulus
        Name of the stimulus.
    frame_ids
        int64 (n_frames,), ascending.
    """
    templates = file.get(TEMPLATES, {})
    for name in templates:
        data = templates[name].get("data") if name.startswith(stimulus) else None
        if data is not None and data.ndim == 3 and data.dtype == np.uint8 and frame_ids[-1] < len(data):
            return np.asarray(data[frame_ids], dtype=np.uint8)
    return None
