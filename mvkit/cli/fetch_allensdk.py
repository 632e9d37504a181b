"""``mvkit fetch allensdk``: an environment for AllenSDK, which needs older packages than mvkit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvkit.cli.console import HomeOption, JsonOption, note, print_json, print_line


def command(
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Make it here (default: HOME/allensdk).")
    ] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="PACKAGE", help="Install this, too; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it again if it is there.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network (also: MVKIT_OFFLINE=1).")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an environment with AllenSDK, for --source allensdk (needs Python 3.11, PyPI, and 1.5 GB).

    mvkit finds it in HOME/allensdk; another one that has AllenSDK 2.16 is named by MVKIT_ALLEN_PYTHON.
    """
    from mvkit.acquire.allen.installing import install_allensdk
    from mvkit.fetch import Feedback

    installed = install_allensdk(
        into,
        home=Path(home) if home else None,
        extras=tuple(extras or ()),
        force=force,
        offline=offline,
        feedback=Feedback(remark=note),
    )
    if as_json:
        print_json(installed.to_json())
    else:
        print_line(f"AllenSDK {installed.version} ({installed.status}): {installed.folder}")
