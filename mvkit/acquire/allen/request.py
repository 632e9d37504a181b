"""What to take from every session: stimulus, areas, time bins, quality of units."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.naming import unknown_name
from mvkit.neural.recording import AREA_ORDER, area_sort_key

#: Stimuli that are still images, each shown many times: one so far.
STIMULI = ("natural_scenes",)
#: Limits that AllenSDK applies to units unless told otherwise.
DEFAULT_ISI_VIOLATIONS = 0.5
DEFAULT_AMPLITUDE_CUTOFF = 0.1
DEFAULT_PRESENCE_RATIO = 0.95
#: Width of a bin whose counts are stored as counts, as in the published data.
COUNTED_BIN_MS = 10.0

# Staged sessions made under another version are read again.
_VERSION = 1
_WHOLE = 1e-9


@dataclass(frozen=True)
class SessionRequest:
    """What to take from a session.

    Attributes
    ----------
    stimulus
        Its name in the session's tables.
    areas
        Acronyms, for example ``VISp``.
    bin_ms
        Width of a time bin in ms.
    window_ms
        First and last edge of the time bins, in ms after the onset of a presentation.
    max_isi_violations, max_amplitude_cutoff, min_presence_ratio
        Limits on the quality of units; None means AllenSDK's. A unit whose metric is not
        known is left out.

    Raises
    ------
    UsageError
        For an unknown stimulus, an area that is empty or named twice, a width that is not positive, a
        window that is not a whole number of bins, or a limit that is NaN.
    """

    stimulus: str = "natural_scenes"
    areas: tuple[str, ...] = AREA_ORDER
    bin_ms: float = COUNTED_BIN_MS
    window_ms: tuple[float, float] = (0.0, 250.0)
    max_isi_violations: float | None = None
    max_amplitude_cutoff: float | None = None
    min_presence_ratio: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.stimulus not in STIMULI:
            raise unknown_name("stimulus", self.stimulus, STIMULI)
        if not self.areas or not all(self.areas) or len(set(self.areas)) < len(self.areas):
            raise UsageError(f"areas: {', '.join(self.areas) or 'none'}: name at least one, and each once")
        start, stop = self.window_ms
        if not (math.isfinite(self.bin_ms) and self.bin_ms > 0):
            raise UsageError(f"bin width {self.bin_ms:g} ms: must be above 0")
        if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
            raise UsageError(f"window {start:g} to {stop:g} ms: the end must come after the start")
        bins = (stop - start) / self.bin_ms
        if abs(bins - round(bins)) > _WHOLE * max(1.0, bins):
            raise UsageError(
                f"window {start:g} to {stop:g} ms: not a whole number of bins of {self.bin_ms:g} ms"
            )
        for name in ("max_isi_violations", "max_amplitude_cutoff", "min_presence_ratio"):
            limit = getattr(self, name)
            if limit is not None and math.isnan(limit):
                raise UsageError(f"{name}: NaN is no limit; give a number, or inf for none")

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
    def isi_violations(self) -> float:
        """Largest rate of violations of the refractory period."""
        return DEFAULT_ISI_VIOLATIONS if self.max_isi_violations is None else self.max_isi_violations

    @property
    def amplitude_cutoff(self) -> float:
        """Largest share of spikes below the detection threshold."""
        return DEFAULT_AMPLITUDE_CUTOFF if self.max_amplitude_cutoff is None else self.max_amplitude_cutoff

    @property
    def presence_ratio(self) -> float:
        """Smallest share of the session in which a unit spikes."""
        return DEFAULT_PRESENCE_RATIO if self.min_presence_ratio is None else self.min_presence_ratio

    @property
    def holds_counts(self) -> bool:
        """Whether responses are stored as counts; in bins of another width they are rates."""
        return self.bin_ms == COUNTED_BIN_MS

    @property
    def method(self) -> dict[str, object]:
        """How responses are measured, for the provenance."""
        return {"counting": "bins closed at both ends, as AllenSDK's presentationwise_spike_counts"}

    def to_json(self) -> dict[str, object]:
        """Return plain data, equal for requests that take the same; :meth:`from_json` reads it."""
        limits = {
            "max_isi_violations": float(self.isi_violations),
            "max_amplitude_cutoff": float(self.amplitude_cutoff),
            "min_presence_ratio": float(self.presence_ratio),
        }
        # JSON has no infinity; text is read back by float().
        told = {name: limit if math.isfinite(limit) else str(limit) for name, limit in limits.items()}
        return {
            "stimulus": self.stimulus,
            "areas": sorted(self.areas, key=area_sort_key),
            "bin_ms": float(self.bin_ms),
            "window_ms": [float(edge) for edge in self.window_ms],
            **told,
        }

    @classmethod
    def from_json(cls, document: dict[str, object]) -> SessionRequest:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        UsageError
            If it is nothing of the kind.
        """
        try:
            areas, window = document["areas"], document["window_ms"]
            if not isinstance(areas, list) or not isinstance(window, list):
                raise TypeError("areas and window_ms must be lists")
            return cls(
                stimulus=str(document["stimulus"]),
                areas=tuple(str(area) for area in areas),
                bin_ms=float(str(document["bin_ms"])),
                window_ms=(float(window[0]), float(window[1])),
                max_isi_violations=float(str(document["max_isi_violations"])),
                max_amplitude_cutoff=float(str(document["max_amplitude_cutoff"])),
                min_presence_ratio=float(str(document["min_presence_ratio"])),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UsageError(f"not a request for a session: {error}") from error

    @property
    def digest(self) -> str:
        """Short name of what :meth:`to_json` returns."""
        document = {**self.to_json(), "version": _VERSION}
        text = json.dumps(document, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
