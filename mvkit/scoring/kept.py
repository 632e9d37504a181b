"""Scores of a layer and a recording that were measured before."""

from __future__ import annotations

from typing import Protocol

from mvkit.scoring.recordings import RecordingLike
from mvkit.scoring.unit_columns import UnitScores


class KeptScores(Protocol):
    """Where scores of pairs of layer and recording are kept."""

    def read(self, layer: str, recording: RecordingLike) -> UnitScores | None:
        """Return what is kept, or None."""

    def write(self, layer: str, recording: RecordingLike, found: UnitScores) -> None:
        """Keep what was measured."""
