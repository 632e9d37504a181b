"""``mvkit fetch checkpoints`` and ``mvkit fetch neural``: plan, fetch, convert, verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from mvkit.errors import DataError, FetchError, FetchHaltedError, MvkitError, UsageError
from mvkit.fetch.catalogue import (
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
    without_credentials,
)
from mvkit.fetch.manifest import HEAD_BYTES, ContentCheck, FileToFetch, Manifest, Record, Verdict
from mvkit.files import file_lock, format_bytes, remove_leftovers, sha256_of
from mvkit.machine import check_free_disk, explain_full_disk, free_disk
from mvkit.paths import checkpoint_dir, checkpoint_path, home_dir, is_offline, neural_dir, neural_path

Step = Literal["nothing", "download", "resume", "convert", "generate", "read", "assemble"]
Status = Literal["already there", "fetched", "converted", "generated", "read", "assembled", "failed"]

_SUFFIXES = (".pkl", ".pkl.gz", ".pkl.xz")
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
    """One thing that would be done.

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
    remark
        What else the user should know, such as why the server did not report the size.
    """

    name: str
    step: Step
    path: Path
    url: str | None = None
    size: int | None = None
    is_exact: bool = True
    download_bytes: int | None = 0
    remark: str = ""


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
    """What became of one file.

    ``path`` is where it is or would have been. ``resumed_from`` counts the bytes used of an interrupted
    download; ``removed``: it served its purpose and is gone again; ``made_from`` describes the source of a
    converted file; ``error`` says why it failed. What is not known, or does not apply, is None.
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
    def of(
        cls, name: str, status: Status, path: Path, record: Record, *, resumed_from: int = 0
    ) -> FileOutcome:
        """Return the outcome for a file that is in place and recorded."""
        return cls(
            name=name,
            status=status,
            path=path,
            size=record.size,
            sha256=record.sha256,
            url=record.url,
            etag=record.etag,
            resumed_from=resumed_from,
            made_from=record.made_from,
        )

    def to_json(self) -> dict[str, object]:
        """Return plain data; the length is called ``bytes``."""
        fields = {**asdict(self), "path": str(self.path)}
        return {"bytes" if name == "size" else name: value for name, value in fields.items()}


@dataclass(frozen=True)
class FetchReport:
    """What became of every file of a request; failures are among them, not raised."""

    home: Path
    files: tuple[FileOutcome, ...]

    @property
    def failures(self) -> tuple[FileOutcome, ...]:
        """Files that could not be had."""
        return tuple(outcome for outcome in self.files if outcome.status == "failed")

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        files = [outcome.to_json() for outcome in self.files]
        return {"home": str(self.home), "ok": not self.failures, "files": files}


@dataclass(frozen=True)
class VerifyReport:
    """How recorded files compare with their records."""

    home: Path
    verdicts: tuple[Verdict, ...]

    @property
    def is_ok(self) -> bool:
        """Whether every file is what was recorded."""
        return all(verdict.is_ok for verdict in self.verdicts)

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        files = [
            {
                "file": verdict.key,
                "path": str(verdict.path),
                "finding": verdict.finding,
                "size": verdict.size,
                "sha256": verdict.sha256,
                "recorded": asdict(verdict.expected) if verdict.expected is not None else None,
            }
            for verdict in self.verdicts
        ]
        return {"home": str(self.home), "ok": self.is_ok, "files": files}


def plan_checkpoints(names: Sequence[str] = (), request: FetchRequest | None = None) -> PlanReport:
    """Report what fetching checkpoints would do; arguments and errors as of ``fetch_checkpoints``."""
    request = request or FetchRequest()
    home = request.home_dir
    steps = plan_files([checkpoint_file(name, home) for name in checkpoint_names(names)], request)
    return _report([steps], request)


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
    home = request.home_dir
    files = {name: checkpoint_file(name, home) for name in checkpoint_names(names)}
    steps = plan_files(list(files.values()), request)
    check_network(steps, request, advice="fetch with a network, or put the files there by hand")
    check_free_disk(home, peak_disk([steps]))
    paths = {name: file.target for name, file in files.items()}
    return FetchReport(home, fetch_each(paths, lambda name: [fetch_file(files[name], request)]))


def verify_checkpoints(names: Sequence[str] = (), request: FetchRequest | None = None) -> VerifyReport:
    """Compare size and SHA-256 of checkpoints with the manifest; without names, of all that are recorded.

    Raises
    ------
    UsageError
        For an unknown name.
    FetchError
        If the manifest is damaged.
    """
    request = request or FetchRequest()
    home = request.home_dir
    paths = [checkpoint_path(name, home) for name in checkpoint_names(names)] if names else None
    return _verify(paths, checkpoint_dir(home), request)


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
    plans = [_plan_dataset(name, request, source) for name in names]
    advice = "fetch with a network, put the files there by hand, or name one with --from FILE"
    check_network([step for steps in plans for step in steps], request, advice=advice)
    # A size that only the catalogue knows refuses nothing: a mirror may hold smaller files.
    certain = [steps for steps in plans if all(step.is_exact for step in steps if step.url)]
    check_free_disk(home, peak_disk(certain, keep_raw=request.keep_raw))

    def obtain(name: str) -> list[FileOutcome]:
        return _obtain_simulated(request) if name == SIMULATED else _obtain_recording(name, request, source)

    return FetchReport(home, fetch_each({name: neural_path(name, home) for name in names}, obtain))


def verify_neural(dataset: str | None = None, request: FetchRequest | None = None) -> VerifyReport:
    """Compare size and SHA-256 of neural files with the manifest; without a name, of all that are recorded.

    Raises
    ------
    UsageError
        For an unknown dataset.
    FetchError
        If the manifest is damaged.
    """
    request = request or FetchRequest()
    home = request.home_dir
    paths = [neural_path(name, home) for name in dataset_names(dataset)] if dataset else None
    return _verify(paths, neural_dir(home), request)


def _report(plans: Sequence[Sequence[PlannedStep]], request: FetchRequest) -> PlanReport:
    home, needed = request.home_dir, peak_disk(plans, keep_raw=request.keep_raw)
    steps = tuple(step for steps in plans for step in steps)
    return PlanReport(home, steps, needed_bytes=needed, free_bytes=free_disk(home))


def _verify(paths: Sequence[Path] | None, folder: Path, request: FetchRequest) -> VerifyReport:
    """Check recorded files: those named, or all below ``folder``."""
    manifest = request.manifest
    if paths is None:
        keys = [key for key in manifest.records() if key.startswith(f"{manifest.key(folder)}/")]
    else:
        keys = [manifest.key(path) for path in paths]
    with request.feedback.progress("verifying") as progress:
        return VerifyReport(request.home_dir, tuple(manifest.verify(keys, progress=progress)))


def plan_files(files: Sequence[FileToFetch], request: FetchRequest) -> tuple[PlannedStep, ...]:
    """Find out what fetching files would take, asking their servers for sizes; nothing is changed."""
    manifest = request.manifest
    steps = []
    unreachable: dict[str, str] = {}
    with open_session() as session:
        for file in files:
            address, target = without_credentials(file.url), file.target
            if manifest.has(target) and not request.force:
                steps.append(
                    PlannedStep(file.name, "nothing", target, url=address, size=target.stat().st_size)
                )
                continue
            host = address.partition("://")[2].partition("/")[0]
            remark = "offline" if request.is_offline else unreachable.get(host, "")
            remote: RemoteVersion | None = None
            if not remark:
                try:
                    remote = request_version(session, file.url, request.download)
                except TransientError as failure:
                    remark = failure.reason
                    if failure.unreachable:
                        unreachable[host] = remark
                except FetchError as error:
                    remark = str(error).splitlines()[0].removeprefix(f"{address}: ")
            partial = PartialFile(target)
            received, version = partial.resumable_bytes(address), partial.version()
            if remote is not None and version is not None and remote.etag != version.etag:
                received = 0
            is_exact = remote is not None and remote.size is not None
            size = remote.size if remote is not None and is_exact else file.approximate_size
            steps.append(
                PlannedStep(
                    name=file.name,
                    step="resume" if received else "download",
                    path=target,
                    url=address,
                    size=size,
                    is_exact=is_exact,
                    download_bytes=None if size is None else max(0, size - received),
                    remark=remark,
                )
            )
    return tuple(steps)


def _datasets(dataset: str, source: Path | None) -> tuple[str, ...]:
    """Return the datasets meant by a name, having checked that a source goes with it."""
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
        return (PlannedStep(dataset, "convert", target, size=size, is_exact=False, remark=f"from {source}"),)
    (fetch,) = plan_files([pickle_file(dataset, request.home_dir)], request)
    size = round(RECORDINGS[dataset].converted_fraction * (fetch.size or 0))
    return fetch, PlannedStep(dataset, "convert", target, size=size, is_exact=False)


def _converted_bytes(dataset: str, pickle: Path) -> int:
    """Return the most disk that the converted file of a pickle takes, estimated."""
    n_bytes = pickle.stat().st_size
    if pickle.suffix != ".pkl":
        # How much a compressed pickle unpacks to is not known beforehand; the neural file is compressed too,
        # so it is of the same order.
        return 2 * n_bytes
    return round(RECORDINGS[dataset].converted_fraction * n_bytes)


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


def check_network(steps: Sequence[PlannedStep], request: FetchRequest, *, advice: str) -> None:
    """Check that nothing has to be fetched if the network is forbidden; FetchError names what would be."""
    missing = [step for step in steps if step.step in ("download", "resume")]
    if request.is_offline and missing:
        files = "\n".join(f"  {step.path}  from {step.url}" for step in missing)
        raise FetchError(
            f"offline (--offline or MVKIT_OFFLINE), and {len(missing)} file(s) would have to be fetched:\n"
            f"{files}\n{advice}"
        )


def fetch_each(
    paths: Mapping[str, Path], obtain: Callable[[str], list[FileOutcome]]
) -> tuple[FileOutcome, ...]:
    """Obtain files, given by name, in turn; a failed one does not stop the others.

    Only what would befall every other one as well does: no network, or a full disk.
    """
    outcomes: list[FileOutcome] = []
    halted = ""
    for name, path in paths.items():
        if halted:
            outcomes.append(FileOutcome(name, "failed", path, error=halted))
            continue
        try:
            outcomes.extend(obtain(name))
        except MvkitError as error:
            outcomes.append(FileOutcome(name, "failed", path, error=str(error)))
            if isinstance(error, FetchHaltedError):
                halted = f"{name} failed, and this would fail alike: not tried"
    return tuple(outcomes)


def fetch_file(file: FileToFetch, request: FetchRequest, *, keep: bool = True) -> FileOutcome:
    """Make sure that a file is in place and recorded; download it if it is not.

    A second process that wants the same file waits for the first and then finds it there. A file that
    someone put in place by hand is accepted if it begins as it should, and recorded. One whose size is no
    longer what was recorded is fetched again. ``keep`` is False for an intermediate file.

    Raises
    ------
    FetchError
        If it cannot be had; then nothing is changed under its final name.
    """
    manifest, feedback, target = request.manifest, request.feedback, file.target
    with file_lock(target, log=feedback.log):
        if manifest.has(target) and not request.force:
            record = manifest.find(target)
            if record is None:
                record = adopt_file(target, file.content, request, keep=keep)
            elif keep and not record.keep:
                manifest.mark_kept(target)
            return FileOutcome.of(file.name, "already there", target, record)
        if manifest.state(target) == "damaged":
            feedback.log(f"{target}: not the size that was recorded; fetching it again")
        received = download(
            file.url, target, content=file.content, settings=request.download, feedback=feedback
        )
        record = Record.of_now(
            size=target.stat().st_size,
            sha256=received.sha256,
            url=received.version.url,
            etag=received.version.etag,
            keep=keep,
        )
        manifest.record(target, record)
        PartialFile(target).remove_note()
        return FileOutcome.of(file.name, "fetched", target, record, resumed_from=received.resumed_from)


def adopt_file(target: Path, content: ContentCheck, request: FetchRequest, *, keep: bool = True) -> Record:
    """Record a file that is in place without a record.

    It was put there by hand, or by a fetch that was killed between the last two steps; the note of the
    download is then still beside it. The caller holds its lock.

    Raises
    ------
    FetchError
        If it does not begin as such a file must.
    """
    feedback = request.feedback
    with target.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    try:
        content.check(head, where=str(target))
    except FetchError as error:
        raise FetchError(f"{error}\nremove it, or fetch it again with --force") from error
    size = target.stat().st_size
    with feedback.progress(f"checking {target.name}") as progress:
        sha256 = sha256_of(target, progress=progress)
    partial = PartialFile(target)
    version = partial.version()
    if version is not None and version.size == size and not partial.path.exists():
        record = Record.of_now(size=size, sha256=sha256, url=version.url, etag=version.etag, keep=keep)
        partial.remove_note()
    else:
        record = Record.of_now(size=size, sha256=sha256)
        feedback.log(f"{target}: found without a record ({format_bytes(size)}); recorded as it is")
    request.manifest.record(target, record)
    return record


def _obtain_recording(dataset: str, request: FetchRequest, source: Path | None) -> list[FileOutcome]:
    """Make sure that the neural file of a published dataset is in place.

    Whatever kills the process, the next call goes on from the last whole thing: the bytes received, the
    pickle, or the neural file. A downloaded pickle is removed only after the conversion has been verified
    and recorded.
    """
    target, pickle = neural_path(dataset, request.home_dir), pickle_file(dataset, request.home_dir)
    manifest, feedback = request.manifest, request.feedback
    with file_lock(target, log=feedback.log):
        present = _find_present(dataset, target, request)
        if present is not None:
            if source is not None:
                feedback.log(f"{target} is there already: {source} was not used (--force does)")
            # What a process that was killed right after a conversion had still to do. A pickle that the user
            # kept and has removed since is no longer missed either.
            if request.keep_raw and pickle.target.exists():
                manifest.mark_kept(pickle.target)
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
                # The neural file could not be written: the pickle is well, and the next dataset would fare no
                # better.
                raise FetchHaltedError(
                    f"{error}\nthe pickle is kept: the same command goes on from there"
                ) from error
            raise DataError(
                f"{error}\nthe pickle is kept at {fetched.path}; --force fetches it again"
            ) from error
        return [replace(fetched, removed=_remove_pickle(fetched.path, manifest)), converted]


def _obtain_simulated(request: FetchRequest) -> list[FileOutcome]:
    """Make sure that the neural file of the simulated dataset is in place."""
    target = neural_path(SIMULATED, request.home_dir)
    with file_lock(target, log=request.feedback.log):
        present = _find_present(SIMULATED, target, request)
        if present is not None:
            return [present]
        from mvkit.neural import write_simulated

        remove_leftovers(target)
        with explain_full_disk(target, remedy="free some space and run the same command again"):
            write_simulated(target)
        return [_record(SIMULATED, "generated", target, None, request)]


def _find_present(dataset: str, target: Path, request: FetchRequest) -> FileOutcome | None:
    """Return the outcome for a neural file that is in place, unless it is to be made again."""
    manifest = request.manifest
    if request.force or not manifest.has(target):
        if manifest.state(target) == "damaged":
            request.feedback.log(f"{target}: not the size that was recorded; making it again")
        return None
    record = manifest.find(target) or adopt_file(target, HDF5, request)
    return FileOutcome.of(dataset, "already there", target, record)


def _convert(
    dataset: str, source: Path, target: Path, made_from: Mapping[str, object], request: FetchRequest
) -> FileOutcome:
    from mvkit.neural import convert_pickle

    remove_leftovers(target)
    check_free_disk(target.parent, max(_converted_bytes(dataset, source), _LEAST_FREE_BYTES))
    with (
        explain_full_disk(target, remedy="free some space and run the same command again"),
        request.feedback.progress(f"converting {source.name}") as progress,
    ):
        report = convert_pickle(source, target, dataset=dataset, progress=progress)
    made_from = {**made_from, "size": report.source_bytes, "sha256": report.source_sha256}
    return _record(dataset, "converted", target, made_from, request)


def _record(
    dataset: str,
    status: Status,
    target: Path,
    made_from: Mapping[str, object] | None,
    request: FetchRequest,
) -> FileOutcome:
    with request.feedback.progress(f"checking {target.name}") as progress:
        sha256 = sha256_of(target, progress=progress)
    record = Record.of_now(size=target.stat().st_size, sha256=sha256, made_from=made_from)
    request.manifest.record(target, record)
    return FileOutcome.of(dataset, status, target, record)


def _remove_pickle(path: Path, manifest: Manifest) -> bool:
    """Remove a pickle that mvkit fetched only for its conversion; say whether it was there and is gone."""
    record = manifest.find(path)
    if record is None or (record.keep and path.exists()):
        return False
    was_there = path.exists()
    path.unlink(missing_ok=True)
    manifest.forget(path)
    return was_there
