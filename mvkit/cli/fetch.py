"""``mvkit fetch``: checkpoints, recordings, sessions."""

from __future__ import annotations

import math
import shlex
import statistics
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
    home_path,
    note,
    plain_table,
    print_json,
    print_line,
    print_renderable,
    progress_bar,
    split_commas,
)
from mvkit.errors import UsageError
from mvkit.files import check_output_path, format_bytes
from mvkit.paths import expand

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
FromFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Convert this published .pkl, .pkl.gz or .pkl.xz instead of downloading. Or recordings of your "
        "own: .npz, .mat, .h5, .csv, .parquet, .nwb (below).",
        show_default=False,
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
_OWN = "Your own recordings (--from FILE|DIR, repeatable)"


def _own_option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, show_default=False, rich_help_panel=_OWN)


_OUT = "The neural file to write."
_RESPONSES = "The array or column of responses; 'values_{animal}' is an array per animal."
_AXES = "trials,images,units in the order of the array's axes, or presentations,units; default: what fits."
_STIMULI = "Images in the order of the responses: an array, a folder, or FILE (.npy .npz .mat .h5; FILE:KEY)."
_AREA = "Area (VISp), or the array or column that has it."
_ANIMAL = "Animal, any name, or the array or column that has it; default: the file's name."
_IMAGE_IDS = "Image of each presentation, by number or file name (tables, NWB, presentations,units)."
_UNIT_IDS = "Numbers or names of the units."
_TRIAL_IDS = "Trial of each presentation; default: a column 'trial', else their order."
_PRESENTATIONS = "NWB: the table of presentations in intervals/ or stimulus/presentation/."
_MEASURE = "Of the responses, such as spikes/s or dF/F; default: a.u."

Out = Annotated[Path | None, _own_option("--out", "FILE.h5", _OUT)]
Responses = Annotated[str | None, _own_option("--responses", "KEY", _RESPONSES)]
Axes = Annotated[str | None, _own_option("--axes", "AXIS,...", _AXES)]
Stimuli = Annotated[str | None, _own_option("--stimuli", "KEY|DIR|FILE", _STIMULI)]
Area = Annotated[str | None, _own_option("--area", "NAME|KEY", _AREA)]
Animal = Annotated[str | None, _own_option("--animal", "NAME|KEY", _ANIMAL)]
ImageIds = Annotated[str | None, _own_option("--image-ids", "KEY", _IMAGE_IDS)]
UnitIds = Annotated[str | None, _own_option("--unit-ids", "KEY", _UNIT_IDS)]
TrialIds = Annotated[str | None, _own_option("--trial-ids", "KEY", _TRIAL_IDS)]
PresentationTable = Annotated[str | None, _own_option("--presentations", "NAME", _PRESENTATIONS)]
UnitsOfMeasure = Annotated[str | None, _own_option("--units-of-measure", "UNITS", _MEASURE)]


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
_STIMULUS = "What was shown: natural_scenes, natural_movie_one or natural_movie_three (frames as images)."
_WINDOW = "Time after onset, a whole number of bins (own NWB: any)."
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
        "--areas -a", "AREA,...", "Own recordings: all.", "VISp,VISl,VISal,VISpm,VISrl,VISam", complete_areas
    ),
]
Stimulus = Annotated[str | None, _session_option("--stimulus", "NAME", _STIMULUS, "natural_scenes")]
BinMs = Annotated[
    float | None,
    _session_option("--bin-ms", "MS", "Width of a time bin of spikes.", "10; of movies the window"),
]
WindowMs = Annotated[
    tuple[float, float] | None,
    _session_option("--window-ms", "START STOP", _WINDOW, "0 250; of movies a frame, 0 33.3"),
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
_PICKLES = (".pkl", ".pkl.gz", ".pkl.xz")
#: Options about recordings of one's own, and the fields of their settings.
#: `--areas` and `--window-ms` are shared with sessions.
_OWN_OPTIONS = {
    "--responses": "responses",
    "--axes": "axes",
    "--stimuli": "stimuli",
    "--area": "area",
    "--animal": "animal",
    "--image-ids": "image_ids",
    "--unit-ids": "unit_ids",
    "--trial-ids": "trial_ids",
    "--presentations": "presentations",
    "--units-of-measure": "units_of_measure",
}
#: Medians of reliabilities below this are about 0.
_UNRELIABLE = 0.05
#: Recordings that a table lists one by one.
_MOST_RECORDINGS = 12
_SESSION_LISTS = ("--sessions", "--exclude-sessions")

_LEARN_MORE = "docs/howto/offline.md: sizes, mirrors, machines without a network"

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


_EPILOG = help_epilog(
    "mvkit fetch neural --dataset neuropixels --dry-run",
    "mvkit fetch neural --from mine.mat --stimuli images --area VISp --out mine.h5",
    "mvkit fetch neural --from 'V1_{animal}.npz' --stimuli scenes/ --area VISp --out v1.h5",
    "mvkit fetch neural --from trials.csv --stimuli scenes/ --out mine.h5",
    "mvkit fetch neural --from session.nwb --stimuli scenes/ --window-ms 0 250 --out nwb.h5",
    learn_more="docs/howto/own-recordings.md: formats, options, which settings to score with",
)


@app.command(cls=Command, epilog=_EPILOG)
def neural(
    dataset_name: Dataset = None,
    source: Source = SourceName.PUBLISHED,
    from_files: FromFiles = None,
    keep_raw: KeepRaw = False,
    dry_run: DryRun = False,
    verify: Verify = False,
    force: Force = False,
    offline: Offline = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    out: Out = None,
    responses: Responses = None,
    axes: Axes = None,
    stimuli: Stimuli = None,
    area: Area = None,
    animal: Animal = None,
    image_ids: ImageIds = None,
    unit_ids: UnitIds = None,
    trial_ids: TrialIds = None,
    presentations: PresentationTable = None,
    units_of_measure: UnitsOfMeasure = None,
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
    """Fetch recordings and convert them to neural files (HOME/neural/DATASET.h5), or bring your own.

    With --source allensdk the recordings are made anew from the Allen Brain Observatory's sessions, which
    --sessions-from and all options after it are about.
    """
    _check_exclusive({"--dry-run": dry_run, "--verify": verify})
    dataset = None if dataset_name is None else dataset_name.value
    own = {
        "--responses": responses,
        "--axes": axes,
        "--stimuli": stimuli,
        "--area": area,
        "--animal": animal,
        "--image-ids": image_ids,
        "--unit-ids": unit_ids,
        "--trial-ids": trial_ids,
        "--presentations": presentations,
        "--units-of-measure": units_of_measure,
    }
    if _is_own(from_files, dataset, {**own, "--out": out}):
        others = {
            "--verify": verify,
            "--keep-raw": keep_raw,
            "--source": source != _PUBLISHED,
            "--sessions-from": sessions_from,
            "--sessions": sessions,
            "--exclude-sessions": exclude_sessions,
            "--stimulus": stimulus,
            "--bin-ms": bin_ms,
            "--isi-violations": isi_violations,
            "--amplitude-cutoff": amplitude_cutoff,
            "--presence-ratio": presence_ratio,
        }
        _import_own(
            from_files or [],
            {**own, "--areas": areas, "--window-ms": window_ms},
            out,
            others={name for name, value in others.items() if value not in (None, False)},
            force=force,
            dry_run=dry_run,
            measure=reliability is not False,
            as_json=as_json,
        )
        return
    from mvkit.fetch.run import fetch_neural, plan_neural

    from_file = expand(from_files[0]) if from_files else None
    request = _request(home, force=force, offline=offline, keep_raw=keep_raw)
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


def _is_own(from_files: list[str] | None, dataset: str | None, own: Mapping[str, object]) -> bool:
    """Tell whether recordings of one's own are to be imported; check that nothing contradicts it."""
    given = [name for name, value in own.items() if value is not None]
    pickles = [name for name in from_files or () if name.lower().endswith(_PICKLES)]
    if from_files and dataset is not None and not pickles and _may_be_own(from_files[0]):
        names = ", ".join(given or ["--from"])
        raise UsageError(f"{names}: only for recordings of your own: leave out --dataset {dataset}")
    if not from_files or pickles or dataset is not None:
        if from_files and len(from_files) > 1:
            raise UsageError(f"--from: {len(from_files)} files; of published recordings, name one pickle")
        if given and not from_files:
            raise UsageError(f"{', '.join(given)}: only for recordings of your own: add --from FILE")
        if given:
            reason = f"{pickles[0]} is a published pickle" if pickles else "leave out --dataset"
            raise UsageError(f"{', '.join(given)}: only for recordings of your own: {reason}")
        return False
    return True


def _may_be_own(name: str) -> bool:
    endings = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".csv", ".tsv", ".gz", ".parquet", ".nwb")
    return name.lower().endswith(endings)


def _import_own(
    sources: Sequence[str],
    options: Mapping[str, Any],
    out: Path | None,
    *,
    others: set[str],
    force: bool,
    dry_run: bool,
    measure: bool,
    as_json: bool,
) -> None:
    """Import recordings of one's own and show what became of them."""
    if others:
        raise UsageError(f"{', '.join(sorted(others))}: not for recordings of your own (--from {sources[0]})")
    if out is None:
        raise UsageError("--out: name the neural file to write, such as --out mine.h5")
    if out.suffix.lower() not in (".h5", ".hdf5", ".nc"):
        raise UsageError(f"--out {out}: a neural file is HDF5; give a name that ends in .h5")
    if not dry_run:
        check_output_path(out, overwrite=force, example="mine.h5")
    fields: dict[str, Any] = {
        field: options[name] for name, field in _OWN_OPTIONS.items() if options[name] is not None
    }
    if options["--areas"] is not None:
        fields["areas"] = _split("--areas", options["--areas"])
    if options["--window-ms"] is not None:
        fields["window_ms"] = options["--window-ms"]
    from mvkit.neural.own.recordings import import_recordings
    from mvkit.neural.own.request import ImportSettings

    imported = import_recordings(sources, ImportSettings(**fields), name=out.stem)
    if measure:
        from mvkit.pipeline.reliability import unit_reliabilities

        with progress_bar("measuring reliabilities") as progress:
            reliabilities = [one.tolist() for one in unit_reliabilities(imported.dataset, progress=progress)]
    else:
        reliabilities = [[] for _ in imported.dataset.recordings]
    if not dry_run:
        imported.dataset.save(out, overwrite=True)
    records = imported.dataset.recording_table().to_dict("records")
    rows: list[dict[str, Any]] = [
        {**{str(name): value for name, value in record.items()}, "median_reliability": _median(own)}
        for record, own in zip(records, reliabilities, strict=True)
    ]
    if as_json:
        print_json(
            {
                "file": str(out),
                "written": not dry_run,
                "units_of_measure": imported.dataset.units_of_measure,
                "notes": list(imported.notes),
                "recordings": rows,
            }
        )
        return
    for sentence in imported.notes:
        print_line(sentence)
    print_line("")
    print_renderable(recordings_table(rows, reliabilities))
    print_line("")
    if _median([value for own in reliabilities for value in own]) < _UNRELIABLE:
        print_line(
            "Reliabilities are about 0: are these single trials of the same images, and the axes right?"
        )
    if dry_run:
        print_line(f"would write {out} (--dry-run)")
        return
    print_line(f"wrote {out} ({format_bytes(out.stat().st_size)}), {imported.dataset.units_of_measure}")
    path = shlex.quote(str(out))
    print_line(f"next: mvkit fetch reliability {path}")
    print_line(f"      mvkit score gabor --dataset {path} --recipe honest")


def recordings_table(rows: Sequence[Mapping[str, Any]], reliabilities: Sequence[Sequence[float]]) -> Table:
    """Return one row per recording; of more than a dozen, one per area."""
    numbers = ("trials>", "images>", "units>", "missing>", "reliability>")
    if len(rows) <= _MOST_RECORDINGS:
        table = plain_table("area", "animal", *numbers)
        for row, own in zip(rows, reliabilities, strict=True):
            table.add_row(row["area"], row["animal"], *_recording_cells([row], own))
        return table
    table = plain_table("area", "animals>", *numbers)
    for area in dict.fromkeys(row["area"] for row in rows):
        members = [(row, own) for row, own in zip(rows, reliabilities, strict=True) if row["area"] == area]
        pooled = [value for _, own in members for value in own]
        table.add_row(area, str(len(members)), *_recording_cells([row for row, _ in members], pooled))
    return table


def _median(reliabilities: Sequence[float]) -> float:
    """Return the median of the reliabilities that are known; NaN of none."""
    known = [value for value in reliabilities if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _recording_cells(rows: Sequence[Mapping[str, Any]], reliabilities: Sequence[float]) -> list[str]:
    """Return trials, images, units, missing responses and the median reliability of the units."""
    median = _median(reliabilities)
    trials = sorted({row["n_trials"] for row in rows})
    sizes = [row["n_trials"] * row["n_units"] for row in rows]
    missing = sum(row["missing"] * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes)
    return [
        str(trials[0]) if len(trials) == 1 else f"{trials[0]}-{trials[-1]}",
        str(rows[0]["n_images"]),
        f"{sum(row['n_units'] for row in rows):,}",
        "0" if not missing else f"{100 * missing:.1f} %",
        "" if math.isnan(median) else f"{median:.2f}",
    ]


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
            home=home_path(home),
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
        home=home_path(home),
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
        home=home_path(home),
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
