"""``mvkit fetch``: checkpoints, recordings, sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvkit.cli.console import (
    Command,
    Group,
    HomeOption,
    JsonOption,
    complete_areas,
    complete_checkpoints,
    help_epilog,
    note,
    print_json,
    print_line,
    print_renderable,
    progress_bar,
    split_commas,
)
from mvkit.errors import UsageError
from mvkit.files import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.allen.request import SessionRequest
    from mvkit.fetch.run import FetchReport, FetchRequest, FileOutcome, Kind, PlannedStep, PlanReport
    from mvkit.neural.reliability import ReliabilityReport


class DatasetName(StrEnum):
    """Recordings that can be fetched."""

    NEUROPIXELS = "neuropixels"
    CALCIUM = "calcium"
    SIMULATED = "simulated"
    ALL = "all"


class SourceName(StrEnum):
    """The published pickles, or the recording sessions that they were made from."""

    PUBLISHED = "published"
    ALLENSDK = "allensdk"


_SESSIONS = "Sessions of the Allen Brain Observatory (--source allensdk)"

Force = Annotated[bool, typer.Option("--force", help="Fetch (and convert) again what is there.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only print what would be done, and the disk needed.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Use no network.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Only check files in place against their recorded size and SHA-256.")
]
Dataset = Annotated[
    DatasetName | None, typer.Option("--dataset", "-d", help="Which recordings; simulated needs no download.")
]
FromPickle = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE", help="Convert this .pkl, .pkl.gz or .pkl.xz instead of downloading."
    ),
]
FromCheckpoint = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE|DIR",
        help="Copy a checkpoint downloaded elsewhere, or NAME.pt of a folder, instead of downloading.",
    ),
]
KeepRaw = Annotated[
    bool,
    typer.Option(
        "--keep-raw", help="Keep the downloaded pickle, or the sessions read, after the neural file is made."
    ),
]
Source = Annotated[
    SourceName,
    typer.Option(
        "--source",
        help="The published pickles, or the recording sessions that they were made from.",
    ),
]


def _session_option(
    names: str, metavar: str | None, text: str, default: str = "", complete: Any = None
) -> Any:
    return typer.Option(
        *names.split(),
        metavar=metavar,
        help=text,
        show_default=default or False,
        autocompletion=complete,
        rich_help_panel=_SESSIONS,
    )


_SESSIONS_FROM = (
    "Read session files (.nwb) that are there already, instead of downloading those that AllenSDK lists."
)
_WINDOW = "Time after onset, a whole number of bins."
_ISI = "Leave out units with more violations of the refractory period; inf for no limit."
_CUTOFF = "Leave out units that miss more of their spikes; inf for no limit."
_PRESENCE = "Leave out units that are there for less of the session; 0 for no limit."
_RELIABILITY = "Measure split-half reliabilities, which the usual selection of units needs."

SessionsFrom = Annotated[Path | None, _session_option("--sessions-from", "DIR", _SESSIONS_FROM)]
Sessions = Annotated[list[str] | None, _session_option("--sessions", "ID,...", "Only these.", "all")]
ExcludeSessions = Annotated[
    list[str] | None, _session_option("--exclude-sessions", "ID,...", "Leave these out.")
]
Areas = Annotated[
    list[str] | None,
    _session_option(
        "--areas -a", "AREA,...", "May also be repeated.", "VISp,VISl,VISal,VISpm,VISrl,VISam", complete_areas
    ),
]
Stimulus = Annotated[
    str | None, _session_option("--stimulus", "NAME", "Images that were shown.", "natural_scenes")
]
BinMs = Annotated[float | None, _session_option("--bin-ms", "MS", "Width of a time bin of spikes.", "10")]
WindowMs = Annotated[
    tuple[float, float] | None, _session_option("--window-ms", "START STOP", _WINDOW, "0 250")
]
IsiViolations = Annotated[float | None, _session_option("--isi-violations", "MOST", _ISI, "AllenSDK's 0.5")]
AmplitudeCutoff = Annotated[
    float | None, _session_option("--amplitude-cutoff", "MOST", _CUTOFF, "AllenSDK's 0.1")
]
PresenceRatio = Annotated[
    float | None, _session_option("--presence-ratio", "LEAST", _PRESENCE, "AllenSDK's 0.95")
]
Reliability = Annotated[
    bool | None, _session_option("--reliability/--no-reliability", None, _RELIABILITY, "reliability")
]


_PUBLISHED, _ALLENSDK, _CALCIUM = "published", "allensdk", "calcium"
#: Options about sessions, and the fields of the request that they set.
_SESSION_OPTIONS = {
    "--sessions-from": "folder",
    "--sessions": "sessions",
    "--exclude-sessions": "exclude",
    "--areas": "areas",
    "--stimulus": "stimulus",
    "--bin-ms": "bin_ms",
    "--window-ms": "window_ms",
    "--isi-violations": "max_isi_violations",
    "--amplitude-cutoff": "max_amplitude_cutoff",
    "--presence-ratio": "min_presence_ratio",
}
_SPIKE_OPTIONS = ("--bin-ms", "--window-ms", "--isi-violations", "--amplitude-cutoff", "--presence-ratio")
_SESSION_LISTS = ("--sessions", "--exclude-sessions")

_LEARN_MORE = "README.md: sizes, mirrors, machines without a network"

app = typer.Typer(
    cls=Group,
    epilog=help_epilog(
        "mvkit fetch checkpoints alexnet_bn_ir --dry-run",
        "mvkit fetch neural --dataset neuropixels",
        "mvkit fetch neural --dataset simulated",
        learn_more=_LEARN_MORE,
    ),
    help="Download published checkpoints and recordings.\n\n"
    "An interrupted download goes on when the command is repeated. A mirror is named by "
    "MVKIT_CHECKPOINT_URL or MVKIT_NEURAL_URL.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit fetch checkpoints alexnet_bn_ir",
        "mvkit fetch checkpoints alexnet_bn_ir --from downloads/alexnet_bn_ir.pt",
        learn_more=_LEARN_MORE,
    ),
)
def checkpoints(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Released models (mvkit list models).",
            show_default="all five",
            autocompletion=complete_checkpoints,
        ),
    ] = None,
    from_file: FromCheckpoint = None,
    dry_run: DryRun = False,
    verify: Verify = False,
    force: Force = False,
    offline: Offline = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the published checkpoints (HOME/checkpoints/NAME.pt)."""
    from mvkit.fetch.run import fetch_checkpoints, plan_checkpoints

    _check_exclusive({"--dry-run": dry_run, "--verify": verify, "--from": from_file is not None})
    request = _request(home, force=force, offline=offline)
    if verify:
        _verify("checkpoints", names or (), request, as_json=as_json)
    elif dry_run:
        _show_plan(plan_checkpoints(names or (), request), as_json=as_json)
    else:
        _show_files(fetch_checkpoints(names or (), request, source=from_file), as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit fetch neural --dataset neuropixels --dry-run",
        "mvkit fetch neural --dataset calcium --from downloads/calcium.pkl",
        "mvkit fetch neural --dataset neuropixels --source allensdk --areas VISp,VISl",
        learn_more=_LEARN_MORE,
    ),
)
def neural(
    dataset_name: Dataset = None,
    source: Source = SourceName.PUBLISHED,
    from_file: FromPickle = None,
    keep_raw: KeepRaw = False,
    dry_run: DryRun = False,
    verify: Verify = False,
    force: Force = False,
    offline: Offline = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    sessions_from: SessionsFrom = None,
    sessions: Sessions = None,
    exclude_sessions: ExcludeSessions = None,
    areas: Areas = None,
    stimulus: Stimulus = None,
    bin_ms: BinMs = None,
    window_ms: WindowMs = None,
    isi_violations: IsiViolations = None,
    amplitude_cutoff: AmplitudeCutoff = None,
    presence_ratio: PresenceRatio = None,
    reliability: Reliability = None,
) -> None:
    """Fetch recordings and convert them to neural files (HOME/neural/DATASET.h5).

    With --source allensdk the recordings are made anew from the Allen Brain Observatory's sessions, which
    --sessions-from and all options after it are about.
    """
    from mvkit.fetch.run import fetch_neural, plan_neural

    _check_exclusive({"--dry-run": dry_run, "--verify": verify})
    request = _request(home, force=force, offline=offline, keep_raw=keep_raw)
    dataset = None if dataset_name is None else dataset_name.value
    if verify:
        _verify("neural", [dataset] if dataset else (), request, as_json=as_json)
        return
    if dataset is None:
        raise UsageError("fetch neural needs --dataset: neuropixels, calcium, simulated or all")
    sessions_request = _session_request(
        source,
        dataset,
        {
            "--from": from_file,
            "--sessions-from": sessions_from,
            "--sessions": sessions,
            "--exclude-sessions": exclude_sessions,
            "--areas": areas,
            "--stimulus": stimulus,
            "--bin-ms": bin_ms,
            "--window-ms": window_ms,
            "--isi-violations": isi_violations,
            "--amplitude-cutoff": amplitude_cutoff,
            "--presence-ratio": presence_ratio,
            "--reliability": reliability,
        },
    )
    if sessions_request is not None:
        from mvkit.allen.fetch import fetch_sessions, plan_sessions
        from mvkit.pipeline.reliability import measure_reliability

        measured = reliability is not False
        if dry_run:
            _show_plan(plan_sessions(sessions_request, request, reliability=measured), as_json=as_json)
        else:
            measure = measure_reliability if measured else None
            _show_files(fetch_sessions(sessions_request, request, measure=measure), as_json=as_json)
    elif dry_run:
        _show_plan(plan_neural(dataset, request, source=from_file), as_json=as_json)
    else:
        _show_files(fetch_neural(dataset, request, source=from_file), as_json=as_json)


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit fetch reliability mine.h5",
        "mvkit fetch reliability mine.h5 --halves 200 --out mine_with_reliabilities.h5",
        learn_more=_LEARN_MORE,
    ),
)
def reliability(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Neural file (.h5).")],
    halves: Annotated[
        int, typer.Option("--halves", metavar="N", min=1, help="Random splits of the trials into halves.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of these splits.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write a copy here and leave FILE as it is."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace reliabilities, or an --out file, that are there already."),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure split-half reliabilities of a neural file and store them in it, for selections to use."""
    from mvkit.paths import locate_dataset

    # Before the libraries that measure are imported.
    locate_dataset(file)
    from mvkit.pipeline.reliability import measure_reliability

    with progress_bar(f"measuring {file.name}") as progress:
        report = measure_reliability(
            file,
            n_halves=halves,
            seed=seed,
            out=out,
            replace=replace,
            home=Path(home) if home else None,
            progress=progress,
        )
    if as_json:
        print_json(report.to_json())
    else:
        print_renderable(reliability_table(report))
        print_line(reliability_text(report))


@app.command(
    cls=Command,
    epilog=help_epilog(
        "mvkit fetch allensdk", "mvkit fetch allensdk --into .venv-allen", learn_more=_LEARN_MORE
    ),
)
def allensdk(
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Make it here.", show_default="HOME/allensdk")
    ] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="PACKAGE", help="Install this, too; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it again if it is there.")] = False,
    offline: Offline = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an environment with AllenSDK, for --source allensdk (needs Python 3.11, PyPI, and 1.5 GB).

    It is used from HOME/allensdk; another one that has AllenSDK 2.16 is named by MVKIT_ALLEN_PYTHON.
    """
    from mvkit.allen.environment import install_allensdk
    from mvkit.fetch.download import Feedback

    installed = install_allensdk(
        into,
        home=Path(home) if home else None,
        extras=tuple(extras or ()),
        force=force,
        offline=offline,
        feedback=Feedback(log=note),
    )
    if as_json:
        print_json(installed.to_json())
    else:
        print_line(f"AllenSDK {installed.version} ({installed.status}): {installed.folder}")


def _session_request(source: str, dataset: str, given: Mapping[str, Any]) -> SessionRequest | None:
    """Return the request that the options describe; None if the source is not AllenSDK.

    ``given`` has the options by name, None for one that was not given.
    """
    names = [name for name, value in given.items() if value is not None]
    if source == _PUBLISHED:
        others = [name for name in names if name != "--from"]
        if others:
            raise UsageError(f"{', '.join(others)}: only for recording sessions: add --source {_ALLENSDK}")
        return None
    if "--from" in names:
        raise UsageError("--from is for published pickles; session files are named by --sessions-from DIR")
    about_spikes = [name for name in _SPIKE_OPTIONS if name in names]
    if dataset == _CALCIUM and about_spikes:
        raise UsageError(f"{', '.join(about_spikes)}: only for spikes, not for --dataset {_CALCIUM}")
    from mvkit.allen.request import SessionRequest

    fields: dict[str, Any] = {
        field: _split(name, given[name]) if isinstance(given[name], list) else given[name]
        for name, field in _SESSION_OPTIONS.items()
        if name in names
    }
    return SessionRequest(dataset=dataset, **fields)


def _split(option: str, values: list[str]) -> tuple[Any, ...]:
    """Return the parts of values like ``1,2``; each once, in order."""
    parts = split_commas(values)
    if parts is None:
        raise UsageError(f"{option} is empty")
    if option in _SESSION_LISTS:
        for part in parts:
            if not part.isdecimal():
                raise UsageError(f"{option}: '{part}' is no number of a session")
        return tuple(dict.fromkeys(int(part) for part in parts))
    return tuple(dict.fromkeys(parts))


def _check_exclusive(options: Mapping[str, bool]) -> None:
    given = [name for name, is_given in options.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} contradict each other: give one of them")


def _request(home: str | None, *, force: bool, offline: bool, keep_raw: bool = False) -> FetchRequest:
    from mvkit.fetch.download import Feedback
    from mvkit.fetch.run import FetchRequest

    return FetchRequest(
        home=Path(home) if home else None,
        force=force,
        offline=offline,
        keep_raw=keep_raw,
        feedback=Feedback(log=note, progress=lambda label: progress_bar(label, bytes_=True)),
    )


def _show_plan(report: PlanReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
    else:
        print_renderable(plan_table(report))
        print_line(plan_text(report))


def _show_files(report: FetchReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
    else:
        print_renderable(file_table(report))
    for outcome in report.failures:
        note(f"error: {outcome.error}")
    if report.failures:
        raise typer.Exit(1)


def _verify(kind: Kind, names: Sequence[str], request: FetchRequest, *, as_json: bool) -> None:
    """Compare files with their records; those that were never fetched are no row of the table."""
    from mvkit.fetch.run import verify_files

    report = verify_files(kind, names, request)
    absent = [outcome.path.stem for outcome in report.files if outcome.status == "not fetched"]
    if as_json:
        print_json(report.to_json())
    elif len(report.files) > len(absent):
        print_renderable(file_table(report))
    elif not absent:
        print_line(f"nothing is recorded in {report.home} yet")
    if absent:
        command = "checkpoints NAME" if kind == "checkpoints" else "neural --dataset NAME"
        note(f"error: {', '.join(absent)}: not fetched yet (mvkit fetch {command})")
    changed = [outcome for outcome in report.failures if outcome.status != "not fetched"]
    if changed:
        reasons = ", ".join(str(outcome.error) for outcome in changed)
        note(f"error: {reasons}\nfetch them again with --force")
    if report.failures:
        raise typer.Exit(1)


def file_table(report: FetchReport) -> Table:
    """One row per file."""
    table = _table("file", "status", "size>", "sha256", "path")
    for outcome in report.files:
        table.add_row(
            outcome.name,
            _status(outcome),
            "" if outcome.size is None else format_bytes(outcome.size),
            (outcome.sha256 or "")[:12],
            _short(outcome.path, report.home),
        )
    return table


def plan_table(report: PlanReport) -> Table:
    """One row per step."""
    table = _table("file", "would", "size>", "path")
    for step in report.steps:
        would = "keep (already there)" if step.step == "nothing" else step.step
        table.add_row(step.name, would, _planned_size(step), _short(step.path, report.home))
    return table


def plan_text(report: PlanReport) -> str:
    """Return why sizes are not known, how much would be downloaded, and the disk needed and free."""
    from mvkit.fetch.run import describe_downloads

    lines = []
    for reason in dict.fromkeys(step.note for step in report.steps if step.note):
        steps = [step for step in report.steps if step.note == reason]
        unknown = [step.name for step in steps if step.size is None]
        published = [step.name for step in steps if step.url and step.size is not None and not step.is_exact]
        parts = [f"size unknown: {', '.join(unknown)}"] if unknown else []
        parts += [f"published size: {', '.join(published)}"] if published else []
        if parts:
            lines.append("; ".join([reason, *parts]))
        else:
            lines.append(f"{', '.join(step.name for step in steps)}: {reason}")
    is_known = all(step.download_bytes is not None for step in report.steps)
    verdict = "" if report.fits else ": TOO LITTLE, the fetch would be refused"
    lines.append(f"to download: {describe_downloads(report.steps)}")
    lines.append(
        f"disk needed: {'' if is_known else 'at least '}{format_bytes(report.needed_bytes)}; "
        f"free at {report.home}: {format_bytes(report.free_bytes)}{verdict}"
    )
    return "\n".join(lines)


def reliability_table(report: ReliabilityReport) -> Table:
    """One row per area."""
    thresholds = list(report.areas[0].at_least)
    counts = [f"at least {threshold:g}>" for threshold in thresholds]
    table = _table("area", "specimens>", "units>", "undefined>", "median>", *counts)
    for row in report.areas:
        table.add_row(
            row.area or "(unknown)",
            str(row.n_specimens),
            str(row.n_units),
            str(row.n_undefined),
            f"{row.median:.3f}" if row.n_undefined < row.n_units else "",
            *(str(row.at_least[threshold]) for threshold in thresholds),
        )
    return table


def reliability_text(report: ReliabilityReport) -> str:
    """Return what the table shows, why units have no reliability, and where it is stored."""
    which = ", in each unit's best time bin" if report.mean.ndim == 2 else ""
    lines = [f"split-half reliability{which}: {report.n_halves} split halves, seed {report.seed}"]
    lines += [f"undefined in {count} units: {reason}" for reason, count in report.undefined().items()]
    replaced = f", in place of {' and '.join(report.replaced)}" if report.replaced else ""
    return "\n".join([*lines, f"stored in {report.target}{replaced}"])


def _table(*columns: str) -> Table:
    """Return an empty table; a name that ends in ``>`` is of a column flush right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(
            name.removesuffix(">"), justify="right" if name.endswith(">") else "left", overflow="fold"
        )
    return table


def _status(outcome: FileOutcome) -> str:
    notes = []
    if outcome.resumed_from:
        notes.append(f"resumed after {format_bytes(outcome.resumed_from)}")
    if outcome.removed:
        notes.append("removed after conversion")
    return f"{outcome.status} ({', '.join(notes)})" if notes else outcome.status


def _planned_size(step: PlannedStep) -> str:
    if step.size is None:
        return "unknown"
    return format_bytes(step.size) if step.is_exact else f"about {format_bytes(step.size)}"


def _short(path: Path, home: Path) -> str:
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)
