"""What a scoring run would need, as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvkit.jsonable import plain


@dataclass(frozen=True)
class LayerNeeds:
    """One layer of a model.

    Attributes
    ----------
    name
        The layer.
    shape
        Of what it gives for one image.
    n_features
        Its width.
    n_bytes
        Of its features of all images, float32.
    n_kept
        Recordings whose scores are kept.
    """

    name: str
    shape: tuple[int, ...]
    n_features: int
    n_bytes: int
    n_kept: int = 0


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes of the main process while a model is scored.

    Attributes
    ----------
    started
        What it takes now that models and recordings are open: libraries, weights, responses.
    batch
        Layers of one batch of images, twice: as the network gives them and as rows.
    features
        Of all images, where they stay in memory; else 0.
    blocks
        Float64 blocks and inner products of the layers that are made ready at a time.
    whole
        Features in float64 that a map needs whole; else 0.
    available
        What can be had beside ``started``; None where nobody tells.
    """

    started: int
    batch: int
    features: int
    blocks: int
    whole: int
    available: int | None

    @property
    def peak(self) -> int:
        """The most that is in memory at a time."""
        return self.started + self.features + max(self.batch, self.blocks, self.whole)

    @property
    def fits(self) -> bool:
        """Whether it can be had."""
        return self.available is None or self.peak - self.started <= self.available


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes on disk while a model is scored.

    Attributes
    ----------
    folder
        Where features lie.
    needed
        0 where they stay in memory.
    free
        On that disk.
    """

    folder: Path
    needed: int
    free: int

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needed <= self.free


@dataclass(frozen=True)
class Seconds:
    """Seconds that parts of a run take.

    Attributes
    ----------
    forward
        Images through the network.
    preparing
        Layers made ready: inner products and the coordinates of every split.
    fits
        Maps fitted, or similarities measured.
    """

    forward: float = 0.0
    preparing: float = 0.0
    fits: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.forward + self.preparing + self.fits


@dataclass(frozen=True)
class ModelNeeds:
    """What scoring one model needs.

    Attributes
    ----------
    name
        As the user named it.
    layers
        In order.
    n_recordings
        Recordings, or pooled populations, that every layer is compared with.
    n_fits
        Fits that are still to be made.
    memory, disk, seconds
        What they take.
    refusal
        Why it cannot be done, with numbers, or "".
    """

    name: str
    layers: tuple[LayerNeeds, ...]
    n_recordings: int
    n_fits: int
    memory: MemoryNeeds
    disk: DiskNeeds
    seconds: Seconds
    refusal: str = ""

    @property
    def n_pairs(self) -> int:
        """Pairs of a layer and a recording."""
        return len(self.layers) * self.n_recordings

    @property
    def n_kept(self) -> int:
        """Pairs whose scores are kept."""
        return sum(layer.n_kept for layer in self.layers)

    @property
    def n_bytes(self) -> int:
        """Bytes of all features, kept scores or not."""
        return sum(layer.n_bytes for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        derived = {"n_pairs": self.n_pairs, "n_kept": self.n_kept, "n_bytes": self.n_bytes}
        found: dict[str, Any] = plain({**asdict(self), **derived, "fits": not self.refusal})
        found["memory"] |= {"peak": self.memory.peak, "fits": self.memory.fits}
        found["disk"]["fits"] = self.disk.fits
        found["seconds"]["total"] = self.seconds.total
        return found


@dataclass(frozen=True)
class CeilingNeeds:
    """The ceiling between animals.

    Attributes
    ----------
    kind
        ``"holdout"`` or ``"pairwise"``.
    is_kept
        Whether it was measured before.
    seconds
        What it takes.
    """

    kind: str
    is_kept: bool
    seconds: float


@dataclass(frozen=True)
class RunEstimate:
    """What a scoring run would need.

    Attributes
    ----------
    dataset
        Name of the recordings.
    n_images, n_recordings, n_units
        How much of them is scored.
    settings
        The protocol, as JSON values.
    n_workers
        Worker processes that fits are divided among.
    opening_s
        Seconds that opening models and recordings took, which the run does again.
    models
        In the order given.
    ceiling
        None if none is asked for.
    extrapolate
        Over what the ceiling is followed besides, for which no time is told; or None.
    """

    dataset: str
    n_images: int
    n_recordings: int
    n_units: int
    settings: Mapping[str, Any]
    n_workers: int
    opening_s: float
    models: tuple[ModelNeeds, ...]
    ceiling: CeilingNeeds | None = None
    extrapolate: str | None = None

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        ceiling = 0.0 if self.ceiling is None else self.ceiling.seconds
        return self.opening_s + sum(model.seconds.total for model in self.models) + ceiling

    @property
    def refusal(self) -> str:
        """Why the run cannot be done, with numbers, or ""."""
        return "\n".join(f"{model.name}: {model.refusal}" for model in self.models if model.refusal)

    @property
    def fits(self) -> bool:
        """Whether the run can be done."""
        return not self.refusal

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; bytes and seconds are numbers."""
        return {
            "dataset": self.dataset,
            "n_images": self.n_images,
            "n_recordings": self.n_recordings,
            "n_units": self.n_units,
            "settings": plain(self.settings),
            "n_workers": self.n_workers,
            "opening_s": self.opening_s,
            "models": [model.to_json() for model in self.models],
            "ceiling": None if self.ceiling is None else asdict(self.ceiling),
            "extrapolate": self.extrapolate,
            "seconds": self.seconds,
            "fits": self.fits,
            "refusal": self.refusal,
        }
