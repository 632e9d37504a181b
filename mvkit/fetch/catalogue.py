"""What has been published: addresses, file names, sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mvkit.errors import unknown_name
from mvkit.fetch.manifest import ContentCheck, FileToFetch
from mvkit.models.registry import PUBLISHED_AT, RELEASED
from mvkit.paths import checkpoint_path, neural_dir

CHECKPOINT_URL_VARIABLE = "MVKIT_CHECKPOINT_URL"
NEURAL_URL_VARIABLE = "MVKIT_NEURAL_URL"
NEURAL_URL = "https://mouse-vision-neuraldata.s3.amazonaws.com"

SIMULATED = "simulated"
#: Length of the simulated neural file, rounded up.
SIMULATED_BYTES = 10_000_000
ALL = "all"

# Pickles of protocol 2 and later begin so; torch's old checkpoint format is a row of such pickles.
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
CHECKPOINT = ContentCheck("a PyTorch checkpoint", (b"PK\x03\x04", *_PICKLES))
PICKLE = ContentCheck("a pickle of neural data", _PICKLES)
HDF5 = ContentCheck("an HDF5 file", (b"\x89HDF\r\n\x1a\n",))


@dataclass(frozen=True)
class PublishedPickle:
    """A published pickle of recordings.

    Attributes
    ----------
    dataset
        Name of the dataset.
    file_name
        Name of the pickle on the server.
    approximate_size
        Its length in bytes, rounded.
    converted_fraction
        Length of the converted file, at most, as a fraction of the pickle's.
    """

    dataset: str
    file_name: str
    approximate_size: int
    converted_fraction: float


#: Published recordings by dataset. Rates of 8 bytes become counts of 1 byte; calcium traces stay as they are.
RECORDINGS: Mapping[str, PublishedPickle] = MappingProxyType(
    {
        row.dataset: row
        for row in (
            PublishedPickle(
                "neuropixels",
                "mouse_neuropixels_visual_data_with_reliabilities.pkl",
                approximate_size=9_800_000_000,
                converted_fraction=1 / 8,
            ),
            PublishedPickle(
                "calcium",
                "mouse_calcium_visual_data_with_reliabilities.pkl",
                approximate_size=1_900_000_000,
                converted_fraction=1.0,
            ),
        )
    }
)


def checkpoint_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the released names that ``names`` stand for; none means all of them.

    Raises
    ------
    UsageError
        If one is neither a released name nor the architecture of one.
    """
    by_architecture = {row.architecture: row.name for row in RELEASED.values()}
    chosen = []
    for name in names or RELEASED:
        if name not in RELEASED and name not in by_architecture:
            raise unknown_name("checkpoint", name, RELEASED)
        chosen.append(name if name in RELEASED else by_architecture[name])
    return tuple(dict.fromkeys(chosen))


def dataset_names(name: str) -> tuple[str, ...]:
    """Return the datasets that ``name`` stands for: itself, or every one for ``all``.

    Raises
    ------
    UsageError
        If there is no such dataset.
    """
    names = (*RECORDINGS, SIMULATED)
    if name == ALL:
        return names
    if name not in names:
        raise unknown_name("dataset", name, (*names, ALL))
    return (name,)


def checkpoint_file(name: str, home: Path) -> FileToFetch:
    """Return the address and the path of a released checkpoint."""
    url = _address(CHECKPOINT_URL_VARIABLE, PUBLISHED_AT, RELEASED[name].file_name)
    alternative = f"mvkit fetch checkpoints {name} --from FILE"
    return FileToFetch(name, url, checkpoint_path(name, home), CHECKPOINT, alternative=alternative)


def pickle_file(dataset: str, home: Path) -> FileToFetch:
    """Return the address of a published pickle and the path at which it is stored until its conversion."""
    row = RECORDINGS[dataset]
    return FileToFetch(
        name=f"{dataset} pickle",
        url=_address(NEURAL_URL_VARIABLE, NEURAL_URL, row.file_name),
        target=neural_dir(home) / "raw" / row.file_name,
        content=PICKLE,
        approximate_size=row.approximate_size,
        alternative=f"mvkit fetch neural --dataset {dataset} --from FILE",
    )


def _address(variable: str, default: str, file_name: str) -> str:
    return f"{(os.environ.get(variable) or default).rstrip('/')}/{file_name}"
