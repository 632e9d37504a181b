"""What this machine has and how fast it is, for estimates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.fetch.disk import free_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mvkit.features.featureset import ImageIds
    from mvkit.features.forward_pass import ForwardPass
    from mvkit.features.stimuli import Stimuli
    from mvkit.scoring.settings import RecordingLike, ScoreSettings
    from mvkit.scoring.speed import Speed

#: Seconds that images shown for their time may take, about.
_SHOWN_S = 1.0


@dataclass(frozen=True)
class FirstImages:
    """The first of some images; see :class:`mvkit.features.stimuli.Stimuli`."""

    stimuli: Stimuli
    n_images: int

    @property
    def name(self) -> str:
        """What the images are called."""
        return self.stimuli.name

    @property
    def image_ids(self) -> ImageIds:
        """One id per image."""
        return self.stimuli.image_ids[: self.n_images]

    @property
    def is_prepared(self) -> bool:
        """Whether the images are network inputs already."""
        return self.stimuli.is_prepared

    def read(self, start: int, stop: int) -> Sequence[NDArray[Any]]:
        """Return images ``start`` to ``stop``."""
        return self.stimuli.read(start, min(stop, self.n_images))


def seconds_per_image(journey: Callable[[Stimuli], ForwardPass], stimuli: Stimuli) -> float:
    """Show a few images to a network that has seen some already, since its very first ones take longer.

    Parameters
    ----------
    journey
        Images -> the pass that is to be timed.
    stimuli
        All images.
    """

    def seconds(n_images: int) -> float:
        few = journey(FirstImages(stimuli, n_images))
        began = time.perf_counter()
        few.look()
        return time.perf_counter() - began

    single = seconds(1)
    # Images in one batch take less time each; a whole batch is the most that a look takes.
    most = min(journey(stimuli).images_per_batch, len(stimuli.image_ids))
    n_shown = min(most, int(_SHOWN_S / max(single, 1e-9)))
    return seconds(n_shown) / n_shown if n_shown > 1 else single


def _available() -> int | None:
    from mvkit.memory import available_memory

    return available_memory()


def resident_memory() -> int:
    """Bytes that this process takes; 0 where nobody tells."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    told = next((line.split() for line in lines if line.startswith("VmRSS:")), None)
    return 0 if told is None else int(told[1]) * 1024


def _speed(
    images: NDArray[Any], recordings: Sequence[RecordingLike], widths: Sequence[int], settings: ScoreSettings
) -> Speed:
    from mvkit.scoring.speed import measure_speed

    return measure_speed(images, recordings, widths, settings)


def _ceiling_seconds(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> float:
    """Measure a whole ceiling, from one split and one halving."""
    from mvkit.scoring.ceilings import measure_ceiling
    from mvkit.scoring.maps import MAPPINGS

    MAPPINGS[settings.mapping].warm_up()
    began = time.perf_counter()
    measure_ceiling(recordings, settings.model_copy(update={"n_splits": 1, "n_halves": 1}))
    return time.perf_counter() - began


@dataclass(frozen=True)
class Machine:
    """What measures; fixed numbers can take its place.

    Attributes
    ----------
    available
        -> bytes of memory that can be had; None where nobody tells.
    resident
        -> bytes that this process takes.
    free_disk
        Folder, which need not exist -> bytes free on its disk.
    image_s
        See :func:`seconds_per_image`.
    speed
        See :func:`mvkit.scoring.speed.measure_speed`.
    ceiling_s
        Recordings, settings -> seconds in one process of a ceiling of one split and one halving.
    clock
        -> seconds.
    """

    available: Callable[[], int | None] = _available
    resident: Callable[[], int] = resident_memory
    free_disk: Callable[[Path], int] = free_bytes
    image_s: Callable[[Callable[[Stimuli], ForwardPass], Stimuli], float] = seconds_per_image
    speed: Callable[[Any, Sequence[RecordingLike], Sequence[int], ScoreSettings], Speed] = _speed
    ceiling_s: Callable[[Sequence[RecordingLike], ScoreSettings], float] = _ceiling_seconds
    clock: Callable[[], float] = time.perf_counter


THIS_MACHINE = Machine()
