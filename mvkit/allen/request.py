"""A request to the Allen Brain Observatory: which sessions, and which responses of each."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError, unknown_name
from mvkit.neural.dataset import AREA_ORDER, area_sort_key

NEUROPIXELS, CALCIUM = "neuropixels", "calcium"
#: Images, each shown many times.
SCENES = "natural_scenes"
#: Movies -> their numbers in the names of the files that hold their frames.
MOVIES = {"natural_movie_one": 1, "natural_movie_three": 3}
STIMULI = (SCENES, *MOVIES)
#: Frames per second of the movies.
FRAME_RATE_HZ = 30.0
#: Visual angle of a scene's 1174 px, of which the screen shows all (120 x 95 degrees: Siegle et al. 2021),
#: and of a movie's width, which is stretched to 1920 px before the spherical warping (AllenSDK's
#: ``stimulus_info``: ``natural_movie_image_to_screen``), and of which the screen shows the middle.
SCENE_FIELD_OF_VIEW_DEG = 120.0
MOVIE_FIELD_OF_VIEW_DEG = round(120.0 * 1920 / 1174, 1)
#: Width of a bin whose spike counts are stored as counts, as in the published data.
COUNT_BIN_MS = 10.0
#: Structures in which the Neuropixels recordings have units, as AllenSDK names them.
AREAS = (
    *AREA_ORDER,
    *("VIS", "VISa", "VISli", "VISmma", "VISmmp", "VISpl", "VISpor"),
    *("LGd", "LGv", "LP", "IGL", "IntG", "LD", "LT", "MGd", "MGm", "MGv", "PF", "PIL", "PO", "POL", "PP"),
    *("RT", "SGN", "TH", "VL", "VPL", "VPM", "Eth", "ZI"),
    *("CA1", "CA2", "CA3", "DG", "HPF", "POST", "PRE", "ProS", "SUB"),
    *("APN", "MB", "MRN", "NOT", "OP", "PPT", "RPF", "SCig", "SCiw", "SCop", "SCsg", "SCzo"),
    *("BMAa", "COAa", "COApm", "CP", "OLF", "grey"),
)

_LIMITS = ("max_isi_violations", "max_amplitude_cutoff", "min_presence_ratio")
_SPIKES_ONLY = ("bin_ms", "window_ms", *_LIMITS)
# Staged sessions of another version are read again.
_VERSION = 1
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SessionRequest:
    """Which sessions, and which responses of each.

    Attributes
    ----------
    dataset
        ``neuropixels`` or ``calcium``.
    folder
        Session files that are on disk; None downloads them.
    sessions, exclude
        Sessions to take, all if empty, and sessions to leave out.
    stimulus
        Its name in the session's tables.
    areas
        Acronyms, for example ``VISp``.
    bin_ms
        Width of a time bin in ms; None: 10, and of a movie the whole window.
    window_ms
        First and last edge of the time bins, in ms after the onset of a presentation, of which every frame of
        a movie is one; None: 0 to 250, and of a movie 0 to 1000 / 30, the length of a frame.
    max_isi_violations, max_amplitude_cutoff, min_presence_ratio
        Limits on the quality of units; the defaults are AllenSDK's. A unit whose metric is not known is left
        out.

    Raises
    ------
    UsageError
        For an unknown dataset, stimulus or area, a width that is not positive, a window that is not a whole
        number of bins, a limit that is NaN, or anything about spikes or a movie where cells were imaged.
    """

    dataset: str = NEUROPIXELS
    folder: Path | None = None
    sessions: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()
    stimulus: str = SCENES
    areas: tuple[str, ...] = AREA_ORDER
    # Known once the stimulus is.
    bin_ms: float = None  # type: ignore[assignment]
    window_ms: tuple[float, float] = None  # type: ignore[assignment]
    max_isi_violations: float = 0.5
    max_amplitude_cutoff: float = 0.1
    min_presence_ratio: float = 0.95

    def __post_init__(self) -> None:
        """Check the values, and that they fit together."""
        if self.dataset not in (NEUROPIXELS, CALCIUM):
            raise unknown_name("dataset of the Allen Brain Observatory", self.dataset, (NEUROPIXELS, CALCIUM))
        if self.stimulus not in STIMULI:
            raise unknown_name("stimulus", self.stimulus, STIMULI)
        changed = [name for name in _SPIKES_ONLY if getattr(self, name) != getattr(SessionRequest, name)]
        if self.dataset == CALCIUM and changed:
            raise UsageError(f"calcium: {', '.join(changed)}: only for spikes (neuropixels)")
        if self.dataset == CALCIUM and self.is_movie:
            raise UsageError(f"calcium: {self.stimulus}: movies are only read with spikes (neuropixels)")
        window_ms: Any = self.window_ms
        bin_ms: Any = self.bin_ms
        if window_ms is None:
            object.__setattr__(self, "window_ms", (0.0, 1000.0 / FRAME_RATE_HZ if self.is_movie else 250.0))
        if bin_ms is None:
            width = self.window_ms[1] - self.window_ms[0] if self.is_movie else COUNT_BIN_MS
            object.__setattr__(self, "bin_ms", width)
        if not self.areas or len(set(self.areas)) < len(self.areas):
            raise UsageError(f"areas: {', '.join(self.areas) or 'none'}: name at least one, and each once")
        for area in self.areas:
            if area not in AREAS:
                raise unknown_name("area", area, AREAS)
        start, stop = self.window_ms
        if not (math.isfinite(self.bin_ms) and self.bin_ms > 0):
            raise UsageError(f"bin width {self.bin_ms:g} ms: must be above 0")
        if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
            raise UsageError(f"window {start:g} to {stop:g} ms: the end must come after the start")
        bins = (stop - start) / self.bin_ms
        if abs(bins - round(bins)) > _ROUNDING * max(1.0, bins):
            raise UsageError(
                f"window {start:g} to {stop:g} ms: not a whole number of bins of {self.bin_ms:g} ms"
            )
        for name in _LIMITS:
            if math.isnan(getattr(self, name)):
                raise UsageError(f"{name}: NaN is no limit; give a number, or inf for none")

    @property
    def name(self) -> str:
        """Name of the dataset that is made, and of its file: of movies with that of the movie."""
        return f"{self.dataset}_{self.stimulus}" if self.is_movie else self.dataset

    @property
    def is_movie(self) -> bool:
        """Whether the images are the frames of a movie."""
        return self.stimulus in MOVIES

    @property
    def frame_rate_hz(self) -> float | None:
        """Frames per second of a movie; None of images."""
        return FRAME_RATE_HZ if self.is_movie else None

    @property
    def field_of_view_deg(self) -> float:
        """Degrees of visual angle that the width of an image spans before the warping on the screen."""
        return MOVIE_FIELD_OF_VIEW_DEG if self.is_movie else SCENE_FIELD_OF_VIEW_DEG

    @property
    def n_bins(self) -> int:
        """Number of time bins."""
        start, stop = self.window_ms
        return round((stop - start) / self.bin_ms)

    @property
    def edges_s(self) -> NDArray[np.float64]:
        """Edges of the time bins, float64 (n_bins + 1,), in seconds after onset.

        Divided by 1000 last, so that edges of whole milliseconds are the doubles nearest to them.
        """
        edges: NDArray[np.float64] = (self.window_ms[0] + np.arange(self.n_bins + 1) * self.bin_ms) / 1000
        return edges

    @property
    def centres_s(self) -> NDArray[np.float64]:
        """Centres of the time bins, float64 (n_bins,), in seconds after onset, computed as AllenSDK does."""
        edges = self.edges_s
        centres: NDArray[np.float64] = edges[:-1] + np.diff(edges) / 2
        return centres

    @property
    def holds_counts(self) -> bool:
        """Whether responses are stored as counts; in bins of another width they are rates."""
        return self.dataset == NEUROPIXELS and self.bin_ms == COUNT_BIN_MS

    @property
    def method(self) -> dict[str, object]:
        """How responses are measured, for the provenance."""
        if self.dataset == NEUROPIXELS:
            return {"counting": "bins closed at both ends, as AllenSDK's presentationwise_spike_counts"}
        return {
            "averaging": "mean of 100 * (F / F0 - 1) from onset over twice the length of a presentation; F "
            "corrected for neuropil, F0 its mean over the four lengths before onset, as AllenSDK's "
            "NaturalScenes.mean_sweep_response",
            "scale": "per cent",
        }

    def to_json(self) -> dict[str, object]:
        """Return which responses of a session are read as plain data, without the choice of sessions."""
        document: dict[str, object] = {
            "stimulus": self.stimulus,
            "areas": sorted(self.areas, key=area_sort_key),
        }
        if self.dataset == CALCIUM:
            return {**document, "measure": "mean_sweep_response"}
        limits = {name: float(getattr(self, name)) for name in _LIMITS}
        return {
            **document,
            "bin_ms": float(self.bin_ms),
            "window_ms": [float(edge) for edge in self.window_ms],
            # JSON has no infinity.
            **{name: limit if math.isfinite(limit) else str(limit) for name, limit in limits.items()},
        }

    @property
    def digest(self) -> str:
        """Short name of what :meth:`to_json` returns."""
        text = json.dumps({**self.to_json(), "version": _VERSION}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
