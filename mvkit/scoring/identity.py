"""What scores are of: recordings in one number, versions, and what the caller knows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from mvkit.machine import installed_versions
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


def result_context(
    context: Mapping[str, object] | None, recordings: Sequence[RecordingLike]
) -> dict[str, object]:
    """Add the digest of the responses and the versions that matter to what the caller knows of scores."""
    about = dict(context or {})
    others = about.pop("versions", None)
    return {
        **about,
        "responses_sha256": recordings_digest(recordings),
        "versions": {
            **installed_versions("numpy", "scipy", "numba"),
            **(others if isinstance(others, Mapping) else {}),
        },
    }
