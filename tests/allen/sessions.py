"""Made-up recording sessions whose spike times are known, and what must come of them by arithmetic.

Needs numpy only: the files are written by ``nwb_files.py`` in the AllenSDK environment, and read by tests of
both environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

#: Seconds between onsets of scenes; a power of two, so that onsets are exact.
PERIOD_S = 0.25
#: Lengths of the probes' sites in micrometres.
SITE_UM = 20
#: Limits that AllenSDK applies to units by default.
DEFAULT_LIMITS = {"isi_violations": 0.5, "amplitude_cutoff": 0.1, "presence_ratio": 0.95}


@dataclass(frozen=True)
class Unit:
    """One sorted unit; ``location`` is its area as the file names it ("" = outside the brain)."""

    unit_id: int
    location: str
    spikes_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    probe: str = "probeA"
    vertical_um: int = 0
    horizontal_um: int = 11
    quality: str = "good"
    valid_channel: bool = True
    isi_violations: float = 0.05
    amplitude_cutoff: float = 0.01
    presence_ratio: float = 0.99
    snr: float = 2.5
    image_selectivity: float = 0.3
    p_running: float = 0.2

    @property
    def area(self) -> str:
        """Area without its part."""
        return self.location.split("-")[0]


@dataclass(frozen=True)
class Presentation:
    """One stimulus on the screen; ``frame`` is NaN for what has no frames."""

    start_s: float
    stop_s: float
    stimulus: str = "natural_scenes"
    frame: float = np.nan
    block: float = 0.0


@dataclass(frozen=True)
class Session:
    """One session, complete."""

    session_id: int
    specimen_id: int
    units: tuple[Unit, ...]
    presentations: tuple[Presentation, ...]
    invalid_s: tuple[tuple[float, float], ...] = ()

    @property
    def subject_id(self) -> int:
        """Identifier of the donor, which in released files is not that of the specimen."""
        return self.specimen_id - 8

    @property
    def scenes(self) -> list[Presentation]:
        """Presentations of scenes in order of time, without grey and masked ones."""
        shown = [one for one in self.presentations if one.stimulus == "natural_scenes" and one.frame >= 0]
        return sorted((one for one in shown if not self.is_masked(one)), key=lambda one: one.start_s)

    def is_masked(self, one: Presentation) -> bool:
        """Whether the screen failed during a presentation (intervals that touch count)."""
        return any(max(one.start_s, low) <= min(one.stop_s, high) for low, high in self.invalid_s)


def scene_presentations(
    n_frames: int, n_trials: int, draws: np.random.Generator, fewer: Mapping[int, int] | None = None
) -> tuple[Presentation, ...]:
    """Show every scene and the grey frame equally often, shuffled, in two blocks around other stimuli."""
    fewer = fewer or {}
    frames = np.concatenate([np.full(fewer.get(one, n_trials), one) for one in range(-1, n_frames)])
    draws.shuffle(frames)
    first, second = np.array_split(frames, 2)
    shown: list[Presentation] = []
    now = 8.0
    for block, part in ((2, first), (4, second)):
        shown.append(Presentation(now - 4.0, now, "spontaneous"))
        for frame in part:
            # The screen's clock drifts: most onsets are no round numbers.
            now += PERIOD_S if len(shown) % 3 else PERIOD_S + float(draws.integers(1, 40)) * 1e-5
            shown.append(Presentation(now, now + PERIOD_S, frame=float(frame), block=float(block)))
        now += 2.0
        for index in range(4):
            shown.append(Presentation(now, now + 0.25, "flashes", block=float(block + 1)))
            now += 2.0 - (index % 2) * 0.5
        now += 4.0
    return tuple(shown)


def draw_spikes(
    presentations: Sequence[Presentation], rate: np.ndarray, draws: np.random.Generator
) -> np.ndarray:
    """Draw spike times of one unit; ``rate`` (n_frames,) in spikes per presentation of each frame."""
    shown = [one for one in presentations if one.stimulus == "natural_scenes"]
    counts = draws.poisson([rate[int(one.frame)] if one.frame >= 0 else 0.2 for one in shown])
    onsets = np.repeat([one.start_s for one in shown], counts)
    times = onsets + draws.uniform(0, PERIOD_S, len(onsets))
    # Spikes come on samples of 30 kHz, as on the probes; fewer digits also pack better.
    return np.unique(np.round(times * 30000) / 30000)


def with_edge_spikes(unit: Unit, presentations: Sequence[Presentation], bin_ms: float = 10.0) -> Unit:
    """Add spikes exactly on edges of bins: onset, an inner edge, the window's end, and just beside each."""
    shown = [one for one in presentations if one.stimulus == "natural_scenes" and one.frame >= 0]
    times: list[float] = []
    for number, one in enumerate(shown[:30]):
        edge = one.start_s + (number % 26) * bin_ms / 1000
        times += [edge, np.nextafter(edge, -np.inf), np.nextafter(edge, np.inf)]
    return replace(unit, spikes_s=np.unique(np.concatenate([unit.spikes_s, times])))


def draw_session(
    session_id: int,
    *,
    units_per_area: Mapping[str, int],
    seed: int,
    n_frames: int = 12,
    n_trials: int = 50,
    fewer: Mapping[int, int] | None = None,
    invalid_trials: Sequence[int] = (),
    stop_after: int | None = None,
    cut_short: Sequence[int] = (),
) -> Session:
    """Draw a session.

    Parameters
    ----------
    session_id
        Its number; the specimen's follows from it.
    units_per_area
        Good units of each location; odd ones (no spikes, bad quality, outside the brain) are added.
    seed
        Of everything drawn.
    n_frames, n_trials
        Scenes and how often each is shown.
    fewer
        Frames shown less often.
    invalid_trials
        Places in the order of scenes during which the screen failed.
    stop_after
        End the session after so many presentations.
    cut_short
        Places in the order of scenes that vanish after 100 ms.
    """
    draws = np.random.default_rng(seed)
    shown = list(scene_presentations(n_frames, n_trials, draws, fewer))
    places = [index for index, one in enumerate(shown) if one.stimulus == "natural_scenes"]
    for place in cut_short:
        one = shown[places[place]]
        shown[places[place]] = replace(one, stop_s=one.start_s + 0.1)
    invalid = tuple(
        (shown[places[at]].start_s + 0.05, shown[places[at]].start_s + 0.06) for at in invalid_trials
    )
    presentations = tuple(shown[:stop_after])
    units: list[Unit] = []
    for location, n_units in units_per_area.items():
        for _ in range(n_units):
            # Responses differ between scenes and repeat: there is something to predict.
            rate = draws.gamma(1.0, 0.7, n_frames)
            spikes = draw_spikes(presentations, rate, draws)
            units.append(_unit(location, spikes, session_id, len(units), draws))
    units = _with_odd_units(units, session_id, draws)
    units[0] = with_edge_spikes(units[0], presentations)
    draws.shuffle(units)  # type: ignore[arg-type]
    return Session(session_id, session_id + 400, tuple(units), presentations, invalid)


def _unit(location: str, spikes: np.ndarray, session_id: int, index: int, draws: np.random.Generator) -> Unit:
    return Unit(
        unit_id=session_id * 1000 + int(draws.integers(1, 9)) * 100 + index,
        location=location,
        spikes_s=spikes,
        probe=("probeC", "probeA")[index % 2],
        vertical_um=SITE_UM * int(draws.integers(1, 40)),
        horizontal_um=int(draws.choice([11, 27, 43, 59])),
        isi_violations=float(draws.uniform(0, 0.5)),
        amplitude_cutoff=float(draws.uniform(0, 0.1)),
        presence_ratio=float(draws.uniform(0.95, 1)),
        snr=float(draws.uniform(1, 5)),
        image_selectivity=float(draws.uniform(0, 1)),
        p_running=float(draws.uniform(0, 1)),
    )


def _with_odd_units(units: list[Unit], session_id: int, draws: np.random.Generator) -> list[Unit]:
    """Add a silent unit, one on the channel of another, and ones that must be left out."""
    base = replace(units[0], spikes_s=units[0].spikes_s[::3])
    odd: list[dict[str, object]] = [
        {"spikes_s": np.empty(0)},
        {"p_running": np.nan, "image_selectivity": np.nan},
        {"quality": "noise"},
        {"isi_violations": 0.7},
        {"amplitude_cutoff": 0.3},
        {"presence_ratio": 0.9},
        {"presence_ratio": np.nan},
        {"location": "CA1"},
        {"location": "LGd-sh"},
        {"location": ""},
        {"valid_channel": False, "vertical_um": 3820},
    ]
    for number, changes in enumerate(odd):
        place = {} if number == 1 else {"vertical_um": SITE_UM * (60 + int(draws.integers(1, 90)) + number)}
        units.append(replace(base, unit_id=session_id * 1000 + 900 + number, **{**place, **changes}))
    return units


def kept_units(
    session: Session, areas: Sequence[str], limits: Mapping[str, float] = DEFAULT_LIMITS
) -> list[Unit]:
    """Return the units that a reader must keep, in AllenSDK's order: by probe, then position."""
    kept = [
        unit
        for unit in session.units
        if unit.valid_channel
        and unit.quality == "good"
        and unit.area in areas
        and unit.isi_violations <= limits["isi_violations"]
        and unit.amplitude_cutoff <= limits["amplitude_cutoff"]
        and unit.presence_ratio >= limits["presence_ratio"]
    ]
    return sorted(kept, key=lambda unit: (unit.probe, unit.vertical_um, unit.horizontal_um))


def expected_counts(
    session: Session,
    units: Sequence[Unit],
    *,
    bin_ms: float = 10.0,
    window_ms: tuple[float, float] = (0.0, 250.0),
    closed: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count spikes by comparing every spike with every bin.

    Parameters
    ----------
    session, units
        What was recorded.
    bin_ms, window_ms
        Bins.
    closed
        Whether a spike on an edge belongs to both bins beside it, as in AllenSDK, or to the later one.

    Returns
    -------
    tuple
        ``frames`` int64 (n_frames,), ``present`` bool (n_trials, n_frames), and
        ``counts`` uint16 (n_trials, n_frames, n_bins, n_units).
    """
    scenes = session.scenes
    frames = np.unique([int(one.frame) for one in scenes]).astype(np.int64)
    of_frame = {int(frame): [one for one in scenes if one.frame == frame] for frame in frames}
    n_trials = max(len(shown) for shown in of_frame.values())
    n_bins = round((window_ms[1] - window_ms[0]) / bin_ms)
    edges = (window_ms[0] + bin_ms * np.arange(n_bins + 1)) / 1000
    present = np.zeros((n_trials, len(frames)), dtype=bool)
    counts = np.zeros((n_trials, len(frames), n_bins, len(units)), dtype=np.uint16)
    for column, frame in enumerate(frames):
        onsets = np.array([one.start_s for one in of_frame[int(frame)]])
        low, high = onsets[:, None] + edges[:-1], onsets[:, None] + edges[1:]
        present[: len(onsets), column] = True
        for number, unit in enumerate(units):
            after = unit.spikes_s >= low[..., None]
            before = unit.spikes_s <= high[..., None] if closed else unit.spikes_s < high[..., None]
            counts[: len(onsets), column, :, number] = (after & before).sum(axis=-1)
    return frames, present, counts


def scene_templates(n_frames: int, height: int = 12, width: int = 16, seed: int = 5) -> np.ndarray:
    """Draw small scenes, uint8 (n_frames, height, width)."""
    return np.random.default_rng(seed).integers(0, 256, (n_frames, height, width), dtype=np.uint8)
