"""What scoring needs to know of a recording."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class RecordingLike(Protocol):
    """What scoring needs of a recording (:class:`mvkit.neural.Recording` has it)."""

    @property
    def area(self) -> str:
        """Visual area."""

    @property
    def specimen(self) -> int:
        """Animal."""

    @property
    def unit_ids(self) -> NDArray[np.int64]:
        """int64 (n_units,)."""

    @property
    def responses(self) -> NDArray[np.float32]:
        """(n_trials, n_images, n_units), NaN = missing."""
