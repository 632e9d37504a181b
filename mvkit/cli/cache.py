"""``mvkit cache``: what is kept of earlier runs, and how to remove it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mvkit.cli.console import (
    Command,
    Group,
    HomeOption,
    JsonOption,
    help_epilog,
    home_path,
    plain_table,
    print_json,
    print_line,
    print_renderable,
)
from mvkit.files import format_bytes

if TYPE_CHECKING:
    from mvkit.cache import CacheInfo

_LEARN_MORE = "docs/howto/cost.md: what is cached, and when it is used again"
_EXAMPLES = ("mvkit cache info", "mvkit cache prune 30d", "mvkit cache prune 5GB")

app = typer.Typer(
    cls=Group,
    epilog=help_epilog(*_EXAMPLES, learn_more=_LEARN_MORE),
    help="Show and prune what is cached of earlier runs: scores, principal coordinates, ceilings.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=Command, epilog=help_epilog(*_EXAMPLES, learn_more=_LEARN_MORE))
def info(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what is cached, how large it is, and when it was last used."""
    from mvkit.cache import cache_info
    from mvkit.paths import cache_dir, ceilings_dir

    directory = home_path(home)
    cached = cache_info(cache_dir(directory), ceilings=ceilings_dir(directory))
    if as_json:
        print_json(cached.to_json())
    else:
        _print_info(cached)


@app.command(cls=Command, epilog=help_epilog(*_EXAMPLES, learn_more=_LEARN_MORE))
def prune(
    rule: Annotated[
        str,
        typer.Argument(
            metavar="RULE",
            help="all; an age since the last use (30d, 12h); or a size to shrink to (5GB), oldest use first.",
        ),
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what is cached; it is computed again when it is needed."""
    from mvkit.cache import prune as prune_cache
    from mvkit.paths import cache_dir, ceilings_dir

    directory = home_path(home)
    report = prune_cache(cache_dir(directory), rule, ceilings=ceilings_dir(directory))
    if as_json:
        print_json(report.to_json())
        return
    print_line(
        f"removed {report.n_removed} results ({format_bytes(report.removed_bytes)}) and "
        f"{report.n_leftovers} leftover files ({format_bytes(report.leftover_bytes)})"
    )
    _print_info(report.left)


def _print_info(cached: CacheInfo) -> None:
    from datetime import datetime

    table = plain_table("cached", "results>", "size>", "unused since>", "last used>")
    for name, kind in cached.kinds.items():
        times = [
            datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M")
            for when in (kind.oldest_use, kind.newest_use)
        ]
        table.add_row(name, f"{kind.n_entries:,}", format_bytes(kind.n_bytes), *times)
    if cached.kinds:
        print_renderable(table)
    leftovers = f", {cached.n_leftovers} leftover files" if cached.n_leftovers else ""
    print_line(f"{cached.folder}: {format_bytes(cached.n_bytes)}{leftovers}")
