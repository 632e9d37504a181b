"""``mvkit fetch``: checkpoints and recordings, downloaded, checked, converted; reliabilities measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvkit.cli import fetch_options as options
from mvkit.cli.console import (
    HomeOption,
    JsonOption,
    note,
    print_json,
    print_line,
    print_renderable,
    progress_bar,
)

if TYPE_CHECKING:
    from mvkit.allen.request import SessionRequest
    from mvkit.fetch.run import FetchReport, FetchRequest, PlanReport, VerifyReport

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


@app.command()
def checkpoints(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Released models; default: all five.")
    ] = None,
    dry_run: options.DryRun = False,
    verify: options.Verify = False,
    force: options.Force = False,
    offline: options.Offline = False,
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


@app.command()
def neural(
    dataset: options.Dataset = None,
    source: options.Source = "published",
    from_file: options.From = None,
    keep_raw: options.KeepRaw = False,
    dry_run: options.DryRun = False,
    verify: options.Verify = False,
    force: options.Force = False,
    offline: options.Offline = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    sessions_from: options.SessionsFrom = None,
    sessions: options.Sessions = None,
    exclude_sessions: options.ExcludeSessions = None,
    areas: options.Areas = None,
    stimulus: options.Stimulus = None,
    bin_ms: options.BinMs = None,
    window_ms: options.WindowMs = None,
    isi_violations: options.IsiViolations = None,
    amplitude_cutoff: options.AmplitudeCutoff = None,
    presence_ratio: options.PresenceRatio = None,
    reliability: options.Reliability = None,
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
        from mvkit.measure_reliability import measure_reliability

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


@app.command()
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
    from mvkit.cli.fetch_tables import reliability_table, reliability_words
    from mvkit.measure_reliability import measure_reliability

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


@app.command()
def allensdk(
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Make it here (default: HOME/allensdk).")
    ] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="PACKAGE", help="Install this, too; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it again if it is there.")] = False,
    offline: options.Offline = False,
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
    from mvkit.errors import UsageError
    from mvkit.naming import unknown_name

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
    from mvkit.cli.fetch_tables import file_table

    if as_json:
        print_json(report.to_json())
    else:
        print_renderable(file_table(report))
    for outcome in report.failures:
        note(f"error: {outcome.error}")
    if report.failures:
        raise typer.Exit(1)


def _show_plan(report: PlanReport, *, as_json: bool) -> None:
    from mvkit.cli.fetch_tables import plan_table, plan_words

    if as_json:
        print_json(report.to_json())
        return
    print_renderable(plan_table(report))
    print_line(plan_words(report))


def _show_verdicts(report: VerifyReport, *, as_json: bool) -> None:
    from mvkit.cli.fetch_tables import verdict_table

    if as_json:
        print_json(report.to_json())
    elif report.verdicts:
        print_renderable(verdict_table(report))
    else:
        print_line(f"nothing is recorded in {report.home} yet")
    if not report.is_ok:
        note("error: files are missing or changed; fetch them again with --force")
        raise typer.Exit(1)
