"""``mvkit fetch checkpoints`` and ``mvkit fetch neural``: plan, fetch, convert, verify."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import requests

from mvkit.errors import DataError, FetchError, FetchHaltedError, MvkitError, UsageError, without_credentials
from mvkit.fetch.catalogue import (
    CHECKPOINT,
    HDF5,
    RECORDINGS,
    SIMULATED,
    SIMULATED_BYTES,
    checkpoint_file,
    checkpoint_names,
    dataset_names,
    pickle_file,
)
from mvkit.fetch.download import (
    DownloadSettings,
    Feedback,
    PartialFile,
    RemoteVersion,
    TransientError,
    download,
    open_session,
    request_version,
)
from mvkit.fetch.manifest import HEAD_BYTES, ContentCheck, FileToFetch, Manifest, Record
from mvkit.files import check_output_folder, file_lock, format_bytes, remove_leftovers, replacing, sha256_of
from mvkit.machine import check_free_disk, explain_full_disk, free_disk
from mvkit.models.registry import RELEASED
from mvkit.paths import checkpoint_path, home_dir, is_offline, neural_path

Step = Literal["nothing", "download", "resume", "convert", "generate", "read", "assemble"]
Status = Literal[
    "already there",
    "fetched",
    "copied",
    "converted",
    "generated",
    "read",
    "assembled",
    "failed",
    # Of files checked against their records.
    "ok",
    "missing",
    "wrong size",
    "wrong checksum",
    "not recorded",
    "not fetched",
]
#: What can be fetched, each into a folder of this name.
Kind = Literal["checkpoints", "neural"]

_SUFFIXES = (".pkl", ".pkl.gz", ".pkl.xz")
_FULL_DISK_REMEDY = "free some space and run the same command again"
#: HDF5 reports a full disk while it writes data, but may crash if there is no room for its first few pages.
_LEAST_FREE_BYTES = 1_000_000


@dataclass(frozen=True)
class FetchRequest:
    """How to fetch.

    Attributes
    ----------
    home
        mvkit's home; None for the usual one.
    force
        Fetch and convert again what is there.
    offline
        Use no network; ``MVKIT_OFFLINE`` has the same effect.
    keep_raw
        Keep the downloaded pickle, or the sessions read, after the neural file was made from them.
    download
        Time limits and retries.
    feedback
        Receives progress and messages.
    """

    home: Path | None = None
    force: bool = False
    offline: bool = False
    keep_raw: bool = False
    download: DownloadSettings = field(default_factory=DownloadSettings)
    feedback: Feedback = field(default_factory=Feedback)

    @property
    def home_dir(self) -> Path:
        """The home directory."""
        return home_dir(self.home)

    @property
    def manifest(self) -> Manifest:
        """The records of the home."""
        return Manifest(self.home_dir)

    @property
    def is_offline(self) -> bool:
        """Whether the network is forbidden by the request or the environment."""
        return self.offline or is_offline()


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan.

    Attributes
    ----------
    name
        What it is about.
    step
        What would be done.
    path
        The file that would result, or is there.
    url
        Where it would come from, without credentials; None if from nowhere.
    size
        Length of the resulting file in bytes; None if not known.
    is_exact
        Whether ``size`` comes from the server or the disk rather than from an estimate.
    download_bytes
        Bytes that would cross the network; None if not known.
    note
        What else the user should know, such as why the server did not report the size.
    """

    name: str
    step: Step
    path: Path
    url: str | None = None
    size: int | None = None
    is_exact: bool = True
    download_bytes: int | None = 0
    note: str = ""


@dataclass(frozen=True)
class PlanReport:
    """What a fetch would do, in order, and the disk it needs.

    ``needed_bytes`` is the most in use at any moment beyond what is used now; unknown sizes count nothing.
    """

    home: Path
    steps: tuple[PlannedStep, ...]
    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the disk has room."""
        return self.needed_bytes <= self.free_bytes

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "dry_run": True,
            "home": str(self.home),
            "files": [{**asdict(step), "path": str(step.path)} for step in self.steps],
            "disk": {"needed_bytes": self.needed_bytes, "free_bytes": self.free_bytes, "fits": self.fits},
        }


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file, or what checking it against its record gave.

    ``path`` is where it is or would have been. ``resumed_from`` counts the bytes used of an interrupted
    download; ``removed``: it served its purpose and is gone again; ``made_from`` describes the source of a
    converted file; ``error`` says what is wrong. What is not known, or does not apply, is None.
    """

    name: str
    status: Status
    path: Path
    size: int | None = None
    sha256: str | None = None
    url: str | None = None
    etag: str | None = None
    resumed_from: int = 0
    removed: bool = False
    made_from: Mapping[str, object] | None = None
    error: str | None = None

    @classmethod
    def of(cls, name: str, status: Status, path: Path, record: Record) -> FileOutcome:
        """Return the outcome for a file that is in place and recorded."""
        return cls(
            name=name,
            status=status,
            path=path,
            size=record.size,
            sha256=record.sha256,
            url=record.url,
            etag=record.etag,
            made_from=record.made_from,
        )

    def to_json(self) -> dict[str, object]:
        """Return plain data; the length is called ``bytes``."""
        fields = {**asdict(self), "path": str(self.path)}
        return {"bytes" if name == "size" else name: value for name, value in fields.items()}


@dataclass(frozen=True)
class FetchReport:
    """What became of every file of a request; failures are listed with them, not raised."""

    home: Path
    files: tuple[FileOutcome, ...]

    @property
    def failures(self) -> tuple[FileOutcome, ...]:
        """Files that could not be fetched, or are not what was recorded."""
        return tuple(outcome for outcome in self.files if outcome.error is not None)

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        files = [outcome.to_json() for outcome in self.files]
        return {"home": str(self.home), "ok": not self.failures, "files": files}


def plan_checkpoints(names: Sequence[str] = (), request: FetchRequest | None = None) -> PlanReport:
    """Report what fetching checkpoints would do; arguments and errors as of ``fetch_checkpoints``."""
    request = request or FetchRequest()
    home = request.home_dir
    steps = plan_files([checkpoint_file(name, home) for name in checkpoint_names(names)], request)
    return _report([steps], request)


def fetch_checkpoints(
    names: Sequence[str] = (), request: FetchRequest | None = None, *, source: Path | None = None
) -> FetchReport:
    """Fetch published checkpoints to ``HOME/checkpoints/NAME.pt``.

    Parameters
    ----------
    names
        Released names or their architectures; none means all, or all that are in ``source``.
    request
        How to fetch.
    source
        A checkpoint downloaded elsewhere, or a folder of files ``NAME.pt``; copied after a check.

    Returns
    -------
    FetchReport
        With an entry for every file, also those that failed.

    Raises
    ------
    UsageError
        For an unknown name, or a source that does not hold what was named.
    FetchError
        Before anything starts: no network allowed, or too little free disk.
    """
    request = request or FetchRequest()
    home = request.home_dir
    if source is not None:
        copies = _checkpoint_sources(names, source)
        targets = {name: checkpoint_path(name, home) for name in copies}
        return FetchReport(
            home, fetch_each(targets, lambda name: [_copy_checkpoint(name, copies[name], request)])
        )
    files = {name: checkpoint_file(name, home) for name in checkpoint_names(names)}
    _start([[step] for step in plan_files(list(files.values()), request)], request)
    targets = {name: file.target for name, file in files.items()}
    return FetchReport(home, fetch_each(targets, lambda name: [fetch_file(files[name], request)]))


def plan_neural(
    dataset: str, request: FetchRequest | None = None, *, source: Path | None = None
) -> PlanReport:
    """Report what fetching a dataset would do; arguments as of ``fetch_neural``.

    Raises
    ------
    UsageError
        For an unknown dataset, or a source that does not go with it.
    """
    request = request or FetchRequest()
    return _report([_plan_dataset(name, request, source) for name in _datasets(dataset, source)], request)


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
    home = request.home_dir
    names = _datasets(dataset, source)
    _start([_plan_dataset(name, request, source) for name in names], request)

    def fetch(name: str) -> list[FileOutcome]:
        return _generate_simulated(request) if name == SIMULATED else _fetch_recording(name, request, source)

    return FetchReport(home, fetch_each({name: neural_path(name, home) for name in names}, fetch))


def verify_files(kind: Kind, names: Sequence[str] = (), request: FetchRequest | None = None) -> FetchReport:
    """Compare size and SHA-256 of files with the manifest.

    Parameters
    ----------
    kind
        Checkpoints or neural files.
    names
        Released models, or datasets; none means every file of this kind that is recorded.
    request
        Home and feedback.

    Raises
    ------
    UsageError
        For an unknown name.
    FetchError
        If the manifest is damaged.
    """
    request = request or FetchRequest()
    home, manifest = request.home_dir, request.manifest
    if kind == "checkpoints":
        paths = [checkpoint_path(name, home) for name in checkpoint_names(names)]
    else:
        paths = [neural_path(name, home) for one in names for name in dataset_names(one)]
    records = manifest.records()
    keys = [manifest.key(path) for path in paths] if names else [*records]
    files = [_verify_file(key, records.get(key), request) for key in keys if key.startswith(f"{kind}/")]
    return FetchReport(home, tuple(files))


def plan_files(files: Sequence[FileToFetch], request: FetchRequest) -> tuple[PlannedStep, ...]:
    """Plan the download of files, asking their servers for sizes; nothing is changed."""
    unreachable: dict[str, str] = {}
    with open_session() as session:
        return tuple(_plan_file(file, request, session, unreachable) for file in files)


def describe_downloads(steps: Iterable[PlannedStep]) -> str:
    """Return how much would be downloaded from where, such as ``9.8 GB from https://SERVER``."""
    downloads = [step for step in steps if step.step in ("download", "resume")]
    n_bytes = sum(step.download_bytes or 0 for step in downloads)
    n_unknown = sum(step.download_bytes is None for step in downloads)
    parts = [format_bytes(n_bytes)] if n_bytes or not n_unknown else []
    if n_unknown:
        parts.append(f"{n_unknown} file{'s' if n_unknown > 1 else ''} of unknown size")
    servers = dict.fromkeys(step.url.rpartition("/")[0] for step in downloads if step.url)
    return " and ".join(parts) + "".join(f" from {server}" for server in servers)


def peak_disk(plans: Iterable[Sequence[PlannedStep]], *, keep_raw: bool = False) -> int:
    """Return the most disk in use at any moment, in bytes, when plans are carried out one after the other."""
    lasting = peak = 0
    for steps in plans:
        made = sum(step.size or 0 for step in steps if step.step in ("convert", "generate"))
        downloaded = sum(step.download_bytes or 0 for step in steps)
        peak = max(peak, lasting + made + downloaded)
        # A pickle is removed once it is converted.
        is_removed = any(step.step == "convert" for step in steps) and not keep_raw
        lasting += made if is_removed else made + downloaded
    return peak


def check_network(steps: Sequence[PlannedStep], request: FetchRequest) -> None:
    """Check that nothing has to be fetched if the network is forbidden; FetchError names what would be."""
    missing = [step for step in steps if step.step in ("download", "resume")]
    if request.is_offline and missing:
        files = "\n".join(f"  {step.path}  from {step.url}" for step in missing)
        raise FetchError(
            f"offline (--offline or MVKIT_OFFLINE), and {len(missing)} file(s) would have to be fetched:\n"
            f"{files}\nfetch with a network, or give files that were downloaded elsewhere with --from FILE"
        )


def fetch_each(
    paths: Mapping[str, Path], fetch: Callable[[str], list[FileOutcome]]
) -> tuple[FileOutcome, ...]:
    """Fetch files, given by name, in turn; a failed one does not stop the others.

    Only a failure that every other file would share does: no network, or a full disk.
    """
    outcomes: list[FileOutcome] = []
    halted = ""
    for name, path in paths.items():
        if halted:
            outcomes.append(FileOutcome(name, "failed", path, error=halted))
            continue
        try:
            outcomes.extend(fetch(name))
        except MvkitError as error:
            outcomes.append(FileOutcome(name, "failed", path, error=str(error)))
            if isinstance(error, FetchHaltedError):
                halted = f"{name} failed for a reason that stops every file: {path.name} was not tried"
    return tuple(outcomes)


def fetch_file(file: FileToFetch, request: FetchRequest, *, keep: bool = True) -> FileOutcome:
    """Make sure that a file is in place and recorded; download it if it is not.

    A second process that needs the same file waits for the first, then uses its file. ``keep`` is False for
    an intermediate file.

    Raises
    ------
    FetchError
        If it cannot be downloaded; then nothing is changed under its final name.
    """
    feedback, target = request.feedback, file.target
    with file_lock(target, log=feedback.log):
        present = find_present(file.name, target, file.content, request, keep=keep)
        if present is not None:
            return present
        try:
            received = download(
                file.url, target, content=file.content, settings=request.download, feedback=feedback
            )
        except FetchError as error:
            is_disk = isinstance(error, FetchHaltedError) and not isinstance(error.__cause__, TransientError)
            if is_disk or not file.alternative:
                raise
            separator = "; or " if "\n" in str(error) else "\n"
            raise type(error)(
                f"{error}{separator}copy a file downloaded elsewhere to {target}, or run `{file.alternative}`"
            ) from error
        version = received.version
        outcome = _record(
            file.name,
            "fetched",
            target,
            request,
            sha256=received.sha256,
            url=version.url,
            etag=version.etag,
            keep=keep,
        )
        PartialFile(target).remove_note()
        return replace(outcome, resumed_from=received.resumed_from)


def find_present(
    name: str, target: Path, content: ContentCheck, request: FetchRequest, *, keep: bool = True
) -> FileOutcome | None:
    """Return the outcome for a file that is in place; None if it is missing or is to be replaced.

    A file that someone put in place by hand is recorded if it begins as it should; one whose size is not what
    was recorded is to be replaced. The caller holds its lock.

    Raises
    ------
    FetchError
        If a file without a record does not begin as such a file must.
    """
    manifest, state = request.manifest, request.manifest.state(target)
    if state == "damaged":
        request.feedback.log(f"{target}: not the size that was recorded; replacing it")
    if request.force or state in ("missing", "damaged"):
        return None
    record = manifest.find(target)
    if record is None:
        return _record_existing(name, target, content, request, keep=keep)
    if keep and not record.keep:
        manifest.keep(target)
    # A fetch that was killed in its very last step left it.
    PartialFile(target).remove_note()
    return FileOutcome.of(name, "already there", target, record)


def _report(plans: Sequence[Sequence[PlannedStep]], request: FetchRequest) -> PlanReport:
    home, needed = request.home_dir, peak_disk(plans, keep_raw=request.keep_raw)
    steps = tuple(step for steps in plans for step in steps)
    return PlanReport(home, steps, needed_bytes=needed, free_bytes=free_disk(home))


def _start(plans: Sequence[Sequence[PlannedStep]], request: FetchRequest) -> None:
    """Check that plans are possible with this network and disk, and announce their downloads."""
    steps = [step for plan in plans for step in plan]
    check_network(steps, request)
    for folder in sorted({step.path.parent for step in steps if step.step != "nothing"}):
        check_output_folder(folder)
    # A size that only the catalogue knows refuses nothing: a mirror may hold smaller files.
    exact = [plan for plan in plans if all(step.is_exact for step in plan if step.url)]
    check_free_disk(request.home_dir, peak_disk(exact, keep_raw=request.keep_raw))
    if any(step.step in ("download", "resume") for step in steps):
        request.feedback.log(f"downloading {describe_downloads(steps)}")


def _checkpoint_sources(names: Sequence[str], source: Path) -> dict[str, Path]:
    """Return the file of every checkpoint that is to be copied; UsageError if there is none."""
    if source.is_dir():
        files = {name: source / RELEASED[name].file_name for name in checkpoint_names(names)}
        missing = [path.name for path in files.values() if not path.is_file()]
        if missing and (names or len(missing) == len(files)):
            raise UsageError(f"--from {source}: no {', '.join(missing)} in this folder")
        return {name: path for name, path in files.items() if path.is_file()}
    if not source.is_file():
        raise UsageError(f"--from {source}: no such file or folder")
    chosen = checkpoint_names(names or ([source.stem] if source.stem in RELEASED else []))
    if len(chosen) != 1:
        raise UsageError(f"--from {source} is one checkpoint: name one of {', '.join(RELEASED)}")
    return {chosen[0]: source}


def _copy_checkpoint(name: str, source: Path, request: FetchRequest) -> FileOutcome:
    target = checkpoint_path(name, request.home_dir)
    with file_lock(target, log=request.feedback.log):
        present = find_present(name, target, CHECKPOINT, request)
        if present is not None:
            request.feedback.log(f"{target} is there already: {source} was not used (--force does)")
            return present
        check_free_disk(target.parent, source.stat().st_size)
        with explain_full_disk(target, remedy=_FULL_DISK_REMEDY), replacing(target) as temporary:
            shutil.copyfile(source, temporary)
            _check_checkpoint(temporary, where=str(source))
        made_from = {"file": source.name, "url": None, "etag": None}
        return _record(name, "copied", target, request, made_from=made_from)


def _check_checkpoint(path: Path, *, where: str) -> None:
    """Check the beginning of a checkpoint and, in a zip archive, every checksum; else FetchError."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    CHECKPOINT.check(head, where=where)
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
            raise FetchError(f"{where}: cut short or damaged ({error}); download it again") from error
        if damaged is not None:
            raise FetchError(f"{where}: damaged ('{damaged}' in it fails its checksum); download it again")


def _plan_file(
    file: FileToFetch, request: FetchRequest, session: requests.Session, unreachable: dict[str, str]
) -> PlannedStep:
    """Plan one download; ``unreachable`` has servers that did not answer, and why, and is added to."""
    address, target = without_credentials(file.url), file.target
    if request.manifest.has(target) and not request.force:
        return PlannedStep(file.name, "nothing", target, url=address, size=target.stat().st_size)
    host = address.partition("://")[2].partition("/")[0]
    note = "offline" if request.is_offline else unreachable.get(host, "")
    remote: RemoteVersion | None = None
    if not note:
        try:
            remote = request_version(session, file.url, request.download)
        except TransientError as failure:
            note = failure.reason
            if failure.unreachable:
                note = unreachable[host] = f"{host}: {failure.reason}"
        except FetchError as error:
            note = str(error).splitlines()[0].removeprefix(f"{address}: ")
    partial = PartialFile(target)
    received, version = partial.resumable_bytes(address), partial.version()
    if remote is not None and version is not None and remote.etag != version.etag:
        received = 0
    is_exact = remote is not None and remote.size is not None
    size = remote.size if remote is not None and is_exact else file.approximate_size
    return PlannedStep(
        name=file.name,
        step="resume" if received else "download",
        path=target,
        url=address,
        size=size,
        is_exact=is_exact,
        download_bytes=None if size is None else max(0, size - received),
        note=note,
    )


def _datasets(dataset: str, source: Path | None) -> tuple[str, ...]:
    """Return the datasets that a name stands for, after checking that a source goes with it."""
    names = dataset_names(dataset)
    if source is not None:
        if dataset not in RECORDINGS:
            raise UsageError(f"--from holds one dataset: name it with --dataset ({' or '.join(RECORDINGS)})")
        if not source.is_file():
            raise UsageError(f"--from {source}: no such file")
        if not source.name.endswith(_SUFFIXES):
            raise UsageError(f"--from {source}: the name must end in {', '.join(_SUFFIXES)}")
    return names


def _plan_dataset(dataset: str, request: FetchRequest, source: Path | None) -> tuple[PlannedStep, ...]:
    target = neural_path(dataset, request.home_dir)
    if request.manifest.has(target) and not request.force:
        return (PlannedStep(dataset, "nothing", target, size=target.stat().st_size),)
    if dataset == SIMULATED:
        return (PlannedStep(dataset, "generate", target, size=SIMULATED_BYTES, is_exact=False),)
    if source is not None:
        size = _converted_bytes(dataset, source)
        return (PlannedStep(dataset, "convert", target, size=size, is_exact=False, note=f"from {source}"),)
    (fetch,) = plan_files([pickle_file(dataset, request.home_dir)], request)
    size = round(RECORDINGS[dataset].converted_fraction * (fetch.size or 0))
    return fetch, PlannedStep(dataset, "convert", target, size=size, is_exact=False)


def _converted_bytes(dataset: str, pickle: Path) -> int:
    """Estimate the most disk that the converted file of a pickle takes."""
    n_bytes = pickle.stat().st_size
    if pickle.suffix != ".pkl":
        # The neural file is compressed, too, so it is of the same order.
        return 2 * n_bytes
    return round(RECORDINGS[dataset].converted_fraction * n_bytes)


def _fetch_recording(dataset: str, request: FetchRequest, source: Path | None) -> list[FileOutcome]:
    """Make sure that the neural file of a published dataset is in place.

    Whatever kills the process, the next call goes on from the last whole thing: the bytes received, the
    pickle, or the neural file. A downloaded pickle is removed only after the conversion has been verified
    and recorded.
    """
    target, pickle = neural_path(dataset, request.home_dir), pickle_file(dataset, request.home_dir)
    manifest, feedback = request.manifest, request.feedback
    with file_lock(target, log=feedback.log):
        present = find_present(dataset, target, HDF5, request)
        if present is not None:
            if source is not None:
                feedback.log(f"{target} is there already: {source} was not used (--force does)")
            # Left to do if a process was killed right after a conversion.
            if request.keep_raw and pickle.target.exists():
                manifest.keep(pickle.target)
            elif _remove_pickle(pickle.target, manifest):
                feedback.log(f"{pickle.target}: removed; it had been converted")
            return [present]
        if source is not None:
            made_from = {"file": source.name, "url": None, "etag": None}
            return [_convert(dataset, source, target, made_from, request)]
        fetched = fetch_file(pickle, request, keep=request.keep_raw)
        made_from = {"file": fetched.path.name, "url": fetched.url, "etag": fetched.etag}
        try:
            converted = _convert(dataset, fetched.path, target, made_from, request)
        except DataError as error:
            if isinstance(error.__cause__, OSError | RuntimeError):
                # The neural file could not be written, and the next dataset's could not be either.
                raise FetchHaltedError(
                    f"{error}\nthe pickle is kept: the same command goes on from there"
                ) from error
            raise DataError(
                f"{error}\nthe pickle is kept at {fetched.path}; --force fetches it again"
            ) from error
        return [replace(fetched, removed=_remove_pickle(fetched.path, manifest)), converted]


def _generate_simulated(request: FetchRequest) -> list[FileOutcome]:
    """Make sure that the neural file of the simulated dataset is in place."""
    target = neural_path(SIMULATED, request.home_dir)
    with file_lock(target, log=request.feedback.log):
        present = find_present(SIMULATED, target, HDF5, request)
        if present is not None:
            return [present]
        from mvkit.neural import write_simulated

        remove_leftovers(target)
        with explain_full_disk(target, remedy=_FULL_DISK_REMEDY):
            write_simulated(target)
        return [_record(SIMULATED, "generated", target, request)]


def _convert(
    dataset: str, source: Path, target: Path, made_from: Mapping[str, object], request: FetchRequest
) -> FileOutcome:
    from mvkit.neural import convert_pickle

    remove_leftovers(target)
    check_free_disk(target.parent, max(_converted_bytes(dataset, source), _LEAST_FREE_BYTES))
    with (
        explain_full_disk(target, remedy=_FULL_DISK_REMEDY),
        request.feedback.progress(f"converting {source.name}") as progress,
    ):
        report = convert_pickle(source, target, dataset=dataset, progress=progress)
    made_from = {**made_from, "size": report.source_bytes, "sha256": report.source_sha256}
    return _record(dataset, "converted", target, request, made_from=made_from)


def _record(
    name: str,
    status: Status,
    target: Path,
    request: FetchRequest,
    *,
    sha256: str | None = None,
    **fields: Any,
) -> FileOutcome:
    """Record a file that is in place; ``fields`` are further ones of the record."""
    if sha256 is None:
        with request.feedback.progress(f"checking {target.name}") as progress:
            sha256 = sha256_of(target, progress=progress)
    record = Record(size=target.stat().st_size, sha256=sha256, **fields)
    request.manifest.record(target, record)
    return FileOutcome.of(name, status, target, record)


def _record_existing(
    name: str, target: Path, content: ContentCheck, request: FetchRequest, *, keep: bool
) -> FileOutcome:
    """Record a file that is in place without a record, see :func:`find_present`.

    It was put there by hand, or by a fetch that was killed between the last two steps; the note of the
    download is then still beside it.
    """
    with target.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    try:
        content.check(head, where=str(target))
    except FetchError as error:
        raise FetchError(f"{error}\nremove it, or fetch it again with --force") from error
    size = target.stat().st_size
    partial = PartialFile(target)
    version = partial.version()
    if version is None or version.size != size or partial.path.exists():
        request.feedback.log(f"{target}: had no record ({format_bytes(size)}); recorded as it is")
        return _record(name, "already there", target, request)
    outcome = _record(name, "already there", target, request, url=version.url, etag=version.etag, keep=keep)
    partial.remove_note()
    return outcome


def _remove_pickle(path: Path, manifest: Manifest) -> bool:
    """Remove a pickle that mvkit fetched only for its conversion; tell whether it was there and is gone."""
    record = manifest.find(path)
    if record is None or (record.keep and path.exists()):
        return False
    was_there = path.exists()
    path.unlink(missing_ok=True)
    manifest.forget(path)
    return was_there


def _verify_file(key: str, record: Record | None, request: FetchRequest) -> FileOutcome:
    path = request.home_dir / key
    size = path.stat().st_size if path.exists() else None
    sha256: str | None = None
    status: Status
    if record is None:
        status = "not fetched" if size is None else "not recorded"
    elif size is None:
        status = "missing"
    elif size != record.size:
        status = "wrong size"
    else:
        with request.feedback.progress(f"verifying {path.name}") as progress:
            sha256 = sha256_of(path, progress=progress)
        status = "ok" if sha256 == record.sha256 else "wrong checksum"
    outcome = FileOutcome(
        key, status, path, size, sha256, error=None if status == "ok" else f"{key}: {status}"
    )
    if record is None:
        return outcome
    return replace(outcome, url=record.url, etag=record.etag, made_from=record.made_from)
