"""The record of the benchmarks: what each measured, of which ``benchmarks_page.py`` makes docs/benchmarks.md.

A script takes ``--record FILE`` and reports every comparison by one call; without the option the calls do
nothing, and the script prints what it always prints::

    add_record_option(parser)
    options.record.add("Scores", "PLS, 25 components", peer="ikpls", mvkit=ours, other=theirs, unit="s CPU")

The file holds an object of JSON a line: for each run of a script the machine and the versions, then its
comparisons and what it could not run.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from mvkit.machine import installed_versions

#: Whose versions are kept with every run.
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "torchvision", "numba")


class Record:
    """Comparisons of one run of a script, appended to a file as they are made; to none where path is None."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None
        self.write(
            kind="run",
            date=datetime.date.today().isoformat(),
            machine=machine(),
            versions={
                name: one for name, one in installed_versions(*PACKAGES).items() if one != "not installed"
            },
        )

    def add(
        self,
        task: str,
        job: str,
        *,
        peer: str,
        mvkit: float | Sequence[float],
        other: float | Sequence[float],
        unit: str,
        better: Literal["lower", "higher"] = "lower",
        note: str = "",
    ) -> None:
        """Report one comparison.

        Parameters
        ----------
        task
            Heading of the table, such as "Scores"; rows of several scripts may share it.
        job
            What both did, in a few words.
        peer
            Name on PyPI, whose installed version is kept, or other words, such as "plain torch loop".
        mvkit, other
            What was measured of mvkit and of the peer: one value each, or as many of each as there were
            turns. Of turns the medians are kept, and the median, lowest and highest of the ratios of pairs.
        unit
            Unit of both, such as "s CPU" or "images/s".
        better
            Whether less is better (times, memory) or more (rates). The ratio is above 1 where mvkit is ahead.
        note
            What a reader must know of this row: what was extrapolated, how far results differ.
        """
        ours, theirs = (list(one) if isinstance(one, Sequence) else [one] for one in (mvkit, other))
        if len(ours) == len(theirs):
            pairs = list(zip(ours, theirs, strict=True))
        else:
            pairs = [(statistics.median(ours), statistics.median(theirs))]
        ratios = [theirs / ours if better == "lower" else ours / theirs for ours, theirs in pairs]
        self.write(
            kind="comparison",
            task=task,
            job=job,
            peer=peer,
            version=version_of(peer),
            mvkit=statistics.median(ours),
            other=statistics.median(theirs),
            unit=unit,
            ratio=statistics.median(ratios),
            ratio_range=[min(ratios), max(ratios)],
            pairs=len(pairs),
            note=note,
        )

    def not_run(self, task: str, job: str, *, peer: str, why: str) -> None:
        """Report a comparison that could not be made, and print why."""
        print(f"{task}, {job}: {peer} was not run: {why}", file=sys.stderr)
        self.write(kind="not run", task=task, job=job, peer=peer, why=why)

    def has_peer(self, module: str, task: str, job: str, *, peer: str | None = None) -> bool:
        """Return whether a peer's module can be imported; where not, report that it was not run."""
        if importlib.util.find_spec(module):
            return True
        peer = peer or module
        self.not_run(task, job, peer=peer, why=f"not installed: pip install {peer}")
        return False

    def write(self, **entry: object) -> None:
        """Append an entry to the file."""
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"script": Path(sys.argv[0]).name, **entry}) + "\n")


def add_record_option(parser: argparse.ArgumentParser) -> None:
    """Give a script the option ``--record FILE``; its value is a :class:`Record` either way."""
    parser.add_argument(
        "--record", type=Record, default=Record(None), metavar="FILE", help="append what is measured to FILE"
    )


def version_of(package: str) -> str:
    """Return the installed version of a package of PyPI, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def machine() -> dict[str, object]:
    """Return processor, cores that may be used, memory in GB, and load as it is now."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": processor or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "load": os.getloadavg()[0],
    }
