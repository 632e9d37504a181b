"""What ``mvkit extract --cache-info`` and ``--cache-prune`` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.cli.console import print_json, print_line, print_renderable

if TYPE_CHECKING:
    from mvkit.cache import CacheInfo


def show_cache(rule: str | None, *, home: Path | None, beside: Mapping[str, object], as_json: bool) -> None:
    """Print what lies in the cache, after pruning it if there is a rule.

    Parameters
    ----------
    rule
        As for :func:`mvkit.cache.prune`; None: nothing is removed.
    home
        mvkit's home directory.
    beside
        Arguments that ask for something else, by name; those that are given are refused.

    Raises
    ------
    UsageError
        If something else was asked for too, or the rule is not valid.
    """
    from mvkit.cache import cache_info, prune
    from mvkit.errors import UsageError
    from mvkit.files import format_bytes
    from mvkit.paths import cache_dir, ceilings_dir

    given = [name for name, value in beside.items() if value]
    option = "--cache-info" if rule is None else "--cache-prune"
    if given:
        raise UsageError(f"{option} is about the cache and extracts nothing: leave out {', '.join(given)}")
    folder, ceilings = cache_dir(home), ceilings_dir(home)
    if rule is None:
        info = cache_info(folder, ceilings=ceilings)
        if as_json:
            print_json(info.to_json())
            return
    else:
        report = prune(folder, rule, ceilings=ceilings)
        if as_json:
            print_json(report.to_json())
            return
        info = report.left
        print_line(
            f"removed {report.n_removed} results ({format_bytes(report.removed_bytes)}) and "
            f"{report.n_leftovers} leftover files ({format_bytes(report.leftover_bytes)})"
        )
    _print_info(info)


def _print_info(info: CacheInfo) -> None:
    from datetime import datetime

    from rich.table import Table

    from mvkit.files import format_bytes

    table = Table()
    table.add_column("kept")
    for title in ("results", "size", "unused since", "last used"):
        table.add_column(title, justify="right")
    for name, kind in info.kinds.items():
        times = [
            datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M")
            for when in (kind.oldest_use, kind.newest_use)
        ]
        table.add_row(name, str(kind.n_entries), format_bytes(kind.n_bytes), *times)
    if info.kinds:
        print_renderable(table)
    leftovers = f", {info.n_leftovers} leftover files" if info.n_leftovers else ""
    print_line(f"{info.folder}: {format_bytes(info.n_bytes)}{leftovers}")
