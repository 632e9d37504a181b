"""Tables of ``mvkit fetch``: what would be done, what was done, what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit.files import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from mvkit.fetch.run import FetchReport, FileOutcome, PlannedStep, PlanReport, VerifyReport
    from mvkit.neural.reliability_report import ReliabilityReport


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
