"""``mvkit fetch``: checkpoints, recordings, sessions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvkit.cli.console import (
    Command,
    HomeOption,
    JsonOption,
    note,
    print_json,
    print_line,
    print_renderable,
    progress_bar,
)
from mvkit.files import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.allen.request import SessionRequest
    from mvkit.fetch.run import FetchReport, FetchRequest, FileOutcome, PlannedStep, PlanReport, VerifyReport
    from mvkit.neural.reliability import ReliabilityReport


_SESSIONS = "Sessions of the Allen Brain Observatory (--source allensdk)"

Force = Annotated[bool, typer.Option("--force", help="Fetch (and convert) again what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and the disk needed.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use no network (also: MVKIT_OFFLINE=1).")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Only check files in place against their recorded size and SHA-256.")
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", "-d", help="neuropixels, calcium, simulated or all.")
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE", help="Convert this .pkl, .pkl.gz or .pkl.xz instead of downloading."
    ),
]
KeepRaw = Annotated[
    bool,
    typer.Option(
        "--keep-raw", help="Keep the downloaded pickle, or the sessions read, after the neural file is made."
    ),
]
Source = Annotated[
    str,
    typer.Option(
        "--source",
        metavar="published|allensdk",
        help="The published pickles, or the recording sessions that they were made from.",
    ),
]
SessionsFrom = Annotated[
    Path | None,
    typer.Option(
        "--sessions-from",
        metavar="DIR",
        help="Read session files (.nwb) that are there already; default: download those that AllenSDK lists.",
        rich_help_panel=_SESSIONS,
    ),
]
Sessions = Annotated[
    list[str] | None,
    typer.Option("--sessions", metavar="ID,...", help="Only these; default: all.", rich_help_panel=_SESSIONS),
]
ExcludeSessions = Annotated[
    list[str] | None,
    typer.Option("--exclude-sessions", metavar="ID,...", help="Leave these out.", rich_help_panel=_SESSIONS),
]
Areas = Annotated[
    list[str] | None,
    typer.Option(
        "--areas",
        "-a",
        metavar="AREA,...",
        help="Default: VISp,VISl,VISal,VISpm,VISrl,VISam.",
        rich_help_panel=_SESSIONS,
    ),
]
Stimulus = Annotated[
    str | None,
    typer.Option("--stimulus", metavar="NAME", help="Default: natural_scenes.", rich_help_panel=_SESSIONS),
]
BinMs = Annotated[
    float | None,
    typer.Option(
        "--bin-ms",
        metavar="MS",
        help="Width of a time bin of spikes; default: 10.",
        rich_help_panel=_SESSIONS,
    ),
]
WindowMs = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--window-ms",
        metavar="START STOP",
        help="Time after onset, a whole number of bins; default: 0 250.",
        rich_help_panel=_SESSIONS,
    ),
]
IsiViolations = Annotated[
    float | None,
    typer.Option(
        "--isi-violations",
        metavar="MOST",
        help="Leave out units with more violations of the refractory period; default: AllenSDK's 0.5, "
        "inf for no limit.",
        rich_help_panel=_SESSIONS,
    ),
]
AmplitudeCutoff = Annotated[
    float | None,
    typer.Option(
        "--amplitude-cutoff",
        metavar="MOST",
        help="Leave out units that miss more of their spikes; default: AllenSDK's 0.1, inf for no limit.",
        rich_help_panel=_SESSIONS,
    ),
]
PresenceRatio = Annotated[
    float | None,
    typer.Option(
        "--presence-ratio",
        metavar="LEAST",
        help="Leave out units that are there for less of the session; default: AllenSDK's 0.95, "
        "0 for no limit.",
        rich_help_panel=_SESSIONS,
    ),
]
Reliability = Annotated[
    bool | None,
    typer.Option(
        "--reliability/--no-reliability",
        help="Measure split-half reliabilities, which the usual selection of units needs; default: do.",
        show_default=False,
        rich_help_panel=_SESSIONS,
    ),
]


def file_table(report: FetchReport) -> Table:
    """One row per file of a fetch."""
    table = _table("file", "status", "size>", "sha256", "path")
    for outcome in report.files:
        table.add_row(
            outcome.name,
            _status(outcome),
            _size(outcome.size),
            (outcome.sha256 or "")[:12],
            _short(outcome.path, report.home),
        )
    return table


def plan_table(report: PlanReport) -> Table:
    """One row per thing that would be done."""
    table = _table("file", "would", "size>", "path", "remark")
    for step in report.steps:
        would = "keep (already there)" if step.step == "nothing" else step.step
        table.add_row(step.name, would, _planned_size(step), _short(step.path, report.home), step.remark)
    return table


def plan_words(report: PlanReport) -> str:
    """Return the servers, and the disk needed and free."""
    servers = dict.fromkeys(step.url.rpartition("/")[0] for step in report.steps if step.url)
    download = [step.download_bytes for step in report.steps]
    unknown = "" if None not in download else " and files of unknown size"
    verdict = "" if report.fits else ": TOO LITTLE, the fetch would be refused"
    return (
        f"to download: {format_bytes(sum(size or 0 for size in download))}{unknown}"
        f"{''.join(f' from {server}' for server in servers)}\n"
        f"disk needed: {format_bytes(report.needed_bytes)}{unknown}; "
        f"free at {report.home}: {format_bytes(report.free_bytes)}{verdict}"
    )


def verdict_table(report: VerifyReport) -> Table:
    """One row per checked file."""
    table = _table("file", "finding", "size>", "recorded>", "date")
    for verdict in report.verdicts:
        record = verdict.expected
        table.add_row(
            verdict.key,
            verdict.finding,
            _size(verdict.size),
            _size(record.size) if record is not None else "",
            record.date if record is not None else "",
        )
    return table


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


def reliability_words(report: ReliabilityReport) -> str:
    """Return what the table is of, why units have no reliability, and where it is stored."""
    which = ", in each unit's best time bin" if report.mean.ndim == 2 else ""
    lines = [f"split-half reliability{which}: {report.n_halves} halvings, seed {report.seed}"]
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


def _size(n_bytes: int | None) -> str:
    return "" if n_bytes is None else format_bytes(n_bytes)


def _planned_size(step: PlannedStep) -> str:
    if step.size is None:
        return "unknown"
    return format_bytes(step.size) if step.is_exact else f"about {format_bytes(step.size)}"


def _short(path: Path, home: Path) -> str:
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)


_PUBLISHED, _ALLENSDK, _CALCIUM = "published", "allensdk", "calcium"
#: Options about sessions, and how the library calls them.
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
_NUMBERS = ("--sessions", "--exclude-sessions")
_LISTS = (*_NUMBERS, "--areas")

app = typer.Typer(
    help="Download published checkpoints and recordings.\n\n"
    "An interrupted download goes on when the command is repeated. A mirror is named by "
    "MVKIT_CHECKPOINT_URL or MVKIT_NEURAL_URL.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=Command)
def checkpoints(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Released models; default: all five.")
    ] = None,
    dry_run: DryRun = False,
    verify: Verify = False,
    force: Force = False,
    offline: Offline = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the published checkpoints (HOME/checkpoints/NAME.pt)."""
    from mvkit.fetch.run import fetch_checkpoints, plan_checkpoints, verify_checkpoints

    _refuse_both(dry_run=dry_run, verify=verify)
    request = _request(home, force=force, offline=offline)
    if verify:
        _show_verdicts(verify_checkpoints(names or (), request), as_json=as_json)
    elif dry_run:
        _show_plan(plan_checkpoints(names or (), request), as_json=as_json)
    else:
        _show_files(fetch_checkpoints(names or (), request), as_json=as_json)


@app.command(cls=Command)
def neural(
    dataset: Dataset = None,
    source: Source = "published",
    from_file: From = None,
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
    from mvkit.fetch.run import fetch_neural, plan_neural, verify_neural

    _refuse_both(dry_run=dry_run, verify=verify)
    request = _request(home, force=force, offline=offline, keep_raw=keep_raw)
    if verify:
        _show_verdicts(verify_neural(dataset, request), as_json=as_json)
        return
    if dataset is None:
        raise typer.BadParameter("name one: neuropixels, calcium, simulated or all", param_hint="--dataset")
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


@app.command(cls=Command)
def reliability(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Neural file (.h5).")],
    halves: Annotated[
        int, typer.Option("--halves", metavar="N", min=1, help="Halvings of the trials.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the halvings.")] = 0,
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
        print_line(reliability_words(report))


@app.command(cls=Command)
def allensdk(
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Make it here (default: HOME/allensdk).")
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

    mvkit finds it in HOME/allensdk; another one that has AllenSDK 2.16 is named by MVKIT_ALLEN_PYTHON.
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
    from mvkit.errors import UsageError, unknown_name

    names = [name for name, value in given.items() if value is not None]
    if source not in (_PUBLISHED, _ALLENSDK):
        raise unknown_name("source", source, (_PUBLISHED, _ALLENSDK))
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

    values: dict[str, Any] = {
        keyword: _split(name, given[name]) if name in _LISTS else given[name]
        for name, keyword in _SESSION_OPTIONS.items()
        if name in names
    }
    return SessionRequest(dataset=dataset, **values)


def _split(option: str, words: list[str]) -> tuple[Any, ...]:
    """Return the parts of words like ``1,2``; each once, in order."""
    from mvkit.errors import UsageError

    parts = [part.strip() for word in words for part in word.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{option}: names nothing")
    if option in _NUMBERS:
        for part in parts:
            if not part.isdecimal():
                raise UsageError(f"{option}: '{part}' is no number of a session")
        return tuple(dict.fromkeys(int(part) for part in parts))
    return tuple(dict.fromkeys(parts))


def _refuse_both(*, dry_run: bool, verify: bool) -> None:
    if dry_run and verify:
        raise typer.BadParameter("choose one of --dry-run and --verify")


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


def _show_files(report: FetchReport, *, as_json: bool) -> None:

    if as_json:
        print_json(report.to_json())
    else:
        print_renderable(file_table(report))
    for outcome in report.failures:
        note(f"error: {outcome.error}")
    if report.failures:
        raise typer.Exit(1)


def _show_plan(report: PlanReport, *, as_json: bool) -> None:

    if as_json:
        print_json(report.to_json())
        return
    print_renderable(plan_table(report))
    print_line(plan_words(report))


def _show_verdicts(report: VerifyReport, *, as_json: bool) -> None:

    if as_json:
        print_json(report.to_json())
    elif report.verdicts:
        print_renderable(verdict_table(report))
    else:
        print_line(f"nothing is recorded in {report.home} yet")
    if not report.is_ok:
        note("error: files are missing or changed; fetch them again with --force")
        raise typer.Exit(1)
