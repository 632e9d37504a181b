"""What recordings are, in one number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mvkit.scoring.recordings import RecordingLike


def recordings_digest(recordings: Sequence[RecordingLike]) -> str:
    """Return the sha256 (hex) of areas, specimens, unit ids and responses, in their order."""
    state = hashlib.sha256()
    for recording in recordings:
        shape = recording.responses.shape
        state.update(f"{recording.area}/{recording.specimen}/{shape}/{recording.responses.dtype}".encode())
        state.update(np.ascontiguousarray(recording.unit_ids, dtype=np.int64).tobytes())
        state.update(np.ascontiguousarray(recording.responses).tobytes())
    return state.hexdigest()
