"""Options of ``mvkit fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
