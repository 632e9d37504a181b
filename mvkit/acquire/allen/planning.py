"""What reading and assembling sessions would take: sessions, bytes, disk."""

from __future__ import annotations

from mvkit.acquire.allen.fetching import staging_of
from mvkit.acquire.allen.imaging_request import ImagingRequest
from mvkit.acquire.allen.present import is_present
from mvkit.acquire.allen.readers import SessionSource
from mvkit.acquire.allen.request import SessionRequest
from mvkit.acquire.allen.staging import Staging
from mvkit.acquire.allen.wanted import SessionsWanted, choose_reader, choose_sessions
from mvkit.acquire.reports import FetchRequest, PlannedStep, PlanReport
from mvkit.fetch import free_bytes
from mvkit.paths import neural_path

#: Length of a session's file where the server is not asked: 58 of them are 147 GB.
_USUAL_FILE_BYTES = 2_500_000_000
#: Values of a session in the published recordings: of some 300 units, in 25 bins of 50 presentations.
_USUAL_VALUES = 300 * 25 * 50 * 118
#: The same of an imaging experiment: the file, and values of some 100 cells in 50 presentations.
_USUAL_IMAGING_BYTES = 300_000_000
_USUAL_IMAGING_VALUES = 100 * 50 * 118
# Bytes per value, packed, of counts and of rates.
_COUNT_BYTES, _RATE_BYTES, _DOUBLE_BYTES = 0.25, 0.4, 8


def plan_sessions(wanted: SessionsWanted, fetch: FetchRequest | None = None) -> PlanReport:
    """Tell what reading and assembling sessions would do; changes nothing.

    Parameters
    ----------
    wanted
        Which sessions, and what of them.
    fetch
        Home, and whether to replace a file that is there.

    Raises
    ------
    UsageError
        If something named does not exist, or a file made otherwise would be replaced without ``force``.
    MissingPackageError
        If AllenSDK is needed and is not installed.
    """
    fetch = fetch or FetchRequest()
    home = fetch.home_dir
    sources = choose_sessions(wanted, choose_reader(wanted, fetch))
    target = neural_path(wanted.dataset, home)
    if is_present(wanted, sources, fetch):
        there = PlannedStep(wanted.dataset, "nothing", target, size=target.stat().st_size)
        return PlanReport(home, (there,), needed_bytes=0, free_bytes=free_bytes(home))
    staging = staging_of(wanted, home)
    steps = [_step(source, staging, wanted.request) for source in sources]
    kept = sum(_packed_bytes(source, wanted.request) for source in sources)
    waiting = sum(
        _packed_bytes(source, wanted.request)
        for source, step in zip(sources, steps, strict=True)
        if step.step != "nothing"
    )
    steps.append(
        PlannedStep(
            wanted.dataset,
            "assemble",
            target,
            size=kept,
            is_exact=False,
            remark="with reliabilities" if wanted.reliability else "",
        )
    )
    # Measuring reliabilities makes a copy.
    copies = 2 if wanted.reliability else 1
    downloads = sum(step.download_bytes or 0 for step in steps)
    return PlanReport(
        home,
        tuple(steps),
        needed_bytes=downloads + waiting + copies * kept,
        free_bytes=free_bytes(home),
    )


def _step(source: SessionSource, staging: Staging, request: SessionRequest) -> PlannedStep:
    name = f"session {source.session_id}"
    if staging.find(source) is not None:
        path = staging.path(source.session_id)
        return PlannedStep(name, "nothing", path, size=path.stat().st_size)
    if source.path is not None:
        return PlannedStep(name, "read", source.path, size=source.size)
    usual = _USUAL_IMAGING_BYTES if isinstance(request, ImagingRequest) else _USUAL_FILE_BYTES
    size = source.size or usual
    told = source.size is not None
    return PlannedStep(
        name,
        "download",
        staging.path(source.session_id),
        size=size,
        is_exact=told,
        download_bytes=size if source.download_bytes is None else source.download_bytes,
    )


def _packed_bytes(source: SessionSource, request: SessionRequest) -> int:
    """Estimate what a session takes once it is read: no more than its file, and what sessions usually do."""
    if isinstance(request, ImagingRequest):
        return min(_USUAL_IMAGING_VALUES * _DOUBLE_BYTES, source.size or _USUAL_IMAGING_BYTES)
    per_value = _COUNT_BYTES if request.holds_counts else _RATE_BYTES
    usual = round(_USUAL_VALUES / 25 * request.n_bins * per_value)
    return usual if source.size is None else min(usual, source.size)
