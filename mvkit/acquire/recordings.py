"""``mvkit fetch neural`` as library functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mvkit.acquire.catalogue import RECORDINGS, SIMULATED, SIMULATED_BYTES, dataset_names, pickle_file
from mvkit.acquire.common import (
    DiskUse,
    Task,
    carry_out,
    download_step,
    peak_bytes,
    refuse_offline,
    verify,
)
from mvkit.acquire.conversion import converted_bytes, obtain_recording, obtain_simulated
from mvkit.acquire.reports import (
    FetchReport,
    FetchRequest,
    FileOutcome,
    PlannedStep,
    PlanReport,
    VerifyReport,
)
from mvkit.errors import UsageError
from mvkit.fetch import Manifest, PlannedFile, free_bytes, is_there, plan, require_free, state_of
from mvkit.paths import neural_dir, neural_path

_ADVICE = "fetch with a network, put the files there by hand, or name one with --from FILE"
_SUFFIXES = (".pkl", ".pkl.gz", ".pkl.xz")


def plan_neural(
    dataset: str, request: FetchRequest | None = None, *, source: Path | None = None
) -> PlanReport:
    """Tell what fetching a dataset would do.

    Parameters
    ----------
    dataset
        ``neuropixels``, ``calcium``, ``simulated`` or ``all``.
    request
        How to fetch.
    source
        A pickle that the user already has.

    Raises
    ------
    UsageError
        For an unknown dataset, or a source that does not go with it.
    """
    request = request or FetchRequest()
    plans = _plans(dataset, request, source)
    return PlanReport(
        home=request.home_dir,
        steps=tuple(step for one in plans for step in one.steps),
        needed_bytes=peak_bytes(one.disk for one in plans),
        free_bytes=free_bytes(request.home_dir),
    )


def fetch_neural(
    dataset: str, request: FetchRequest | None = None, *, source: Path | None = None
) -> FetchReport:
    """Fetch published recordings and convert them to ``HOME/neural/DATASET.h5``.

    Parameters
    ----------
    dataset
        ``neuropixels``, ``calcium``, ``simulated`` (generated, no download) or ``all``.
    request
        How to fetch.
    source
        A pickle (``.pkl``, ``.pkl.gz``, ``.pkl.xz``) that the user already has; it is read only.

    Returns
    -------
    FetchReport
        With an entry for every file, also those that failed.

    Raises
    ------
    UsageError
        For an unknown dataset, or a source that does not go with it.
    FetchError
        Before anything starts: no network allowed, or too little free disk.
    """
    request = request or FetchRequest()
    plans = _plans(dataset, request, source)
    if request.is_offline:
        refuse_offline([one.download for one in plans if one.download is not None], advice=_ADVICE)
    # A size that only the catalogue tells refuses nothing: a mirror may hold smaller files.
    require_free(request.home_dir, peak_bytes(one.disk for one in plans if one.is_exact))
    return FetchReport(request.home_dir, carry_out([_task(one.dataset, request, source) for one in plans]))


def verify_neural(dataset: str | None = None, request: FetchRequest | None = None) -> VerifyReport:
    """Compare neural files with the manifest: size and SHA-256.

    Parameters
    ----------
    dataset
        A dataset; None means every neural file recorded.
    request
        Where to look.

    Raises
    ------
    UsageError
        For an unknown dataset.
    FetchError
        If the manifest is damaged.
    """
    request = request or FetchRequest()
    home = request.home_dir
    wanted = [neural_path(name, home) for name in dataset_names(dataset)] if dataset else None
    return verify(home, wanted, neural_dir(home), request)


@dataclass(frozen=True)
class _DatasetPlan:
    """What obtaining one dataset takes."""

    dataset: str
    steps: tuple[PlannedStep, ...]
    disk: DiskUse = field(default_factory=DiskUse)
    is_exact: bool = True
    download: PlannedFile | None = None


def _plans(dataset: str, request: FetchRequest, source: Path | None) -> list[_DatasetPlan]:
    names = dataset_names(dataset)
    if source is not None:
        _check_source(source, dataset)
    manifest = Manifest(request.home_dir)
    return [_plan_one(name, manifest, request, source) for name in names]


def _check_source(source: Path, dataset: str) -> None:
    if dataset not in RECORDINGS:
        raise UsageError(f"--from holds one dataset: name it with --dataset ({' or '.join(RECORDINGS)})")
    if not source.is_file():
        raise UsageError(f"--from {source}: no such file")
    if not source.name.endswith(_SUFFIXES):
        raise UsageError(f"--from {source}: the name must end in {', '.join(_SUFFIXES)}")


def _plan_one(dataset: str, manifest: Manifest, request: FetchRequest, source: Path | None) -> _DatasetPlan:
    target = neural_path(dataset, request.home_dir)
    if is_there(state_of(target, manifest)) and not request.force:
        there = PlannedStep(dataset, "nothing", target, size=target.stat().st_size)
        return _DatasetPlan(dataset, (there,))
    if dataset == SIMULATED:
        step = PlannedStep(dataset, "generate", target, size=SIMULATED_BYTES, is_exact=False)
        return _DatasetPlan(dataset, (step,), DiskUse(lasting=SIMULATED_BYTES))
    if source is not None:
        size = converted_bytes(dataset, source.stat().st_size, is_compressed=source.suffix != ".pkl")
        step = PlannedStep(dataset, "convert", target, size=size, is_exact=False, remark=f"from {source}")
        return _DatasetPlan(dataset, (step,), DiskUse(lasting=size))
    return _plan_download(dataset, target, manifest, request)


def _plan_download(dataset: str, target: Path, manifest: Manifest, request: FetchRequest) -> _DatasetPlan:
    (planned,) = plan(
        [pickle_file(dataset, request.home_dir)],
        manifest,
        force=request.force,
        offline=request.is_offline,
        settings=request.download,
    )
    size = converted_bytes(dataset, planned.size or 0)
    convert = PlannedStep(dataset, "convert", target, size=size, is_exact=False)
    raw = planned.missing_bytes or 0
    disk = DiskUse(lasting=size + raw) if request.keep_raw else DiskUse(lasting=size, passing=raw)
    return _DatasetPlan(dataset, (download_step(planned), convert), disk, planned.is_exact, planned)


def _task(dataset: str, request: FetchRequest, source: Path | None) -> Task:
    def act() -> list[FileOutcome]:
        if dataset == SIMULATED:
            return obtain_simulated(request)
        return obtain_recording(dataset, request, source)

    return Task(dataset, neural_path(dataset, request.home_dir), act)
