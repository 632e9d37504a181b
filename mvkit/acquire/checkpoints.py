"""``mvkit fetch checkpoints`` as library functions."""

from __future__ import annotations

from collections.abc import Sequence

from mvkit.acquire.catalogue import checkpoint_file, checkpoint_names
from mvkit.acquire.common import (
    DiskUse,
    Task,
    carry_out,
    download_step,
    peak_bytes,
    refuse_offline,
    verify,
)
from mvkit.acquire.reports import FetchReport, FetchRequest, FileOutcome, PlanReport, VerifyReport
from mvkit.fetch import FileToFetch, Manifest, PlannedFile, fetch_file, free_bytes, plan, require_free
from mvkit.paths import checkpoint_dir, checkpoint_path

_ADVICE = "fetch with a network, or put the files there by hand"


def plan_checkpoints(names: Sequence[str] = (), request: FetchRequest | None = None) -> PlanReport:
    """Tell what fetching checkpoints would do.

    Parameters
    ----------
    names
        Released names or their architectures; none means all.
    request
        How to fetch.

    Raises
    ------
    UsageError
        For an unknown name.
    """
    request = request or FetchRequest()
    planned = _plan(checkpoint_names(names), request)
    return PlanReport(
        home=request.home_dir,
        steps=tuple(download_step(one) for one in planned),
        needed_bytes=peak_bytes(DiskUse(lasting=one.missing_bytes or 0) for one in planned),
        free_bytes=free_bytes(request.home_dir),
    )


def fetch_checkpoints(names: Sequence[str] = (), request: FetchRequest | None = None) -> FetchReport:
    """Fetch published checkpoints to ``HOME/checkpoints/NAME.pt``.

    Parameters
    ----------
    names
        Released names or their architectures; none means all.
    request
        How to fetch.

    Returns
    -------
    FetchReport
        With an entry for every file, also those that failed.

    Raises
    ------
    UsageError
        For an unknown name.
    FetchError
        Before anything starts: no network allowed, or too little free disk.
    """
    request = request or FetchRequest()
    chosen = checkpoint_names(names)
    home = request.home_dir
    planned = _plan(chosen, request)
    if request.is_offline:
        refuse_offline(planned, advice=_ADVICE)
    require_free(home, peak_bytes(DiskUse(lasting=one.missing_bytes or 0) for one in planned))
    return FetchReport(home, carry_out([_task(one.file, request) for one in planned]))


def verify_checkpoints(names: Sequence[str] = (), request: FetchRequest | None = None) -> VerifyReport:
    """Compare fetched checkpoints with the manifest: size and SHA-256.

    Parameters
    ----------
    names
        Released names; none means everything recorded.
    request
        Where to look.

    Raises
    ------
    UsageError
        For an unknown name.
    FetchError
        If the manifest is damaged.
    """
    request = request or FetchRequest()
    home = request.home_dir
    wanted = [checkpoint_path(name, home) for name in checkpoint_names(names)] if names else None
    return verify(home, wanted, checkpoint_dir(home), request)


def _plan(names: Sequence[str], request: FetchRequest) -> tuple[PlannedFile, ...]:
    return plan(
        [checkpoint_file(name, request.home_dir) for name in names],
        Manifest(request.home_dir),
        force=request.force,
        offline=request.is_offline,
        settings=request.download,
    )


def _task(file: FileToFetch, request: FetchRequest) -> Task:
    def act() -> list[FileOutcome]:
        fetched = fetch_file(
            file,
            Manifest(request.home_dir),
            force=request.force,
            settings=request.download,
            feedback=request.feedback,
        )
        return [FileOutcome.of(fetched)]

    return Task(file.name, file.target, act)
