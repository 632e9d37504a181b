"""``mvkit score --dry-run``: what a run would need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mvkit.cli.console import note, print_json, print_line, print_renderable
from mvkit.errors import UsageError

if TYPE_CHECKING:
    from mvkit.score_request import ScoreRequest


def tell_needs(request: ScoreRequest, *, parts: object, as_json: bool) -> None:
    """Print what a run would need; leave with exit code 1 if it cannot be done here.

    Parameters
    ----------
    request
        The run.
    parts
        What ``--shard`` or ``--merge`` says, which must be nothing.
    as_json
        Whether to print one JSON document.
    """
    from mvkit.report.estimate_page import estimate_page
    from mvkit.score_estimate import estimate_run

    if parts is not None:
        raise UsageError("--dry-run is about a whole run: leave --shard and --merge out")
    estimate = estimate_run(request, remark=note)
    if as_json:
        print_json(estimate.to_json())
    for part in () if as_json else estimate_page(estimate):
        if isinstance(part, str):
            print_line(part)
        else:
            print_renderable(part)
    if not estimate.fits:
        note(f"error: {estimate.refusal}")
        raise typer.Exit(1)
