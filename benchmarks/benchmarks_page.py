"""Write the tables of docs/benchmarks.md from a record of the benchmarks; `make bench` calls it last.

    python benchmarks/benchmarks_page.py FILE

FILE is what scripts have appended with ``--record FILE`` (record.py). Where a comparison is there twice, the
later one counts. What stands between the page's markers is replaced, the rest is not touched.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
Entry = dict[str, Any]
BEGIN, END = "<!-- {name}: written by {script} -->", "<!-- end of {name} -->"
#: Of the tables, in this order; others follow.
TASKS = ("Scores", "Features", "Loading", "Training", "Conversion")
HEADER = "| job | peer | mvkit | peer | ratio | turns | remarks |\n|---|---|--:|--:|--:|--:|---|"


def read_record(path: Path) -> list[Entry]:
    """Return the entries of a record, without comparisons that were made again or at last."""
    entries: dict[object, Entry] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        entry = json.loads(line)
        key = number if entry["kind"] == "run" else (entry["task"], entry["job"], entry["peer"])
        # Taken out first, so that it also stands where the later one does.
        entries.pop(key, None)
        entries[key] = entry
    return list(entries.values())


def of_kind(entries: list[Entry], kind: str) -> list[Entry]:
    """Return the entries of one kind."""
    return [entry for entry in entries if entry["kind"] == kind]


def blocks(entries: list[Entry]) -> dict[str, str]:
    """Return the text of every block of the page."""
    comparisons = of_kind(entries, "comparison")
    tasks = list(dict.fromkeys([*TASKS, *(row["task"] for row in comparisons)]))
    tables = [
        f"### {task}\n\n" + "\n".join([HEADER, *map(table_row, rows)])
        for task in tasks
        if (rows := [row for row in comparisons if row["task"] == task])
    ]
    behind = [
        f"- {row['job']}: {ratio_text(row)} beside {row['peer']}." for row in comparisons if row["ratio"] < 1
    ]
    missing = [f"- {row['job']}: {row['peer']} ({row['why']})." for row in of_kind(entries, "not run")]
    return {
        "machine": machine_text(of_kind(entries, "run")),
        "results": "\n\n".join(tables),
        "behind": "\n".join(behind) or "Nowhere in these tables.",
        "not run": "\n".join(missing) or "Every comparison of the scripts was made.",
    }


def table_row(row: Entry) -> str:
    """Return a comparison as a row of a table."""
    peer = f"{row['peer']} {row['version']}".strip()
    cells = [row["job"], peer, f"{number(row['mvkit'])} {row['unit']}", number(row["other"])]
    return "| " + " | ".join([*cells, ratio_text(row), str(row["pairs"]), row["note"] or "-"]) + " |"


def ratio_text(row: Entry) -> str:
    """Return the ratio, with its range where there were several turns; bold where mvkit is behind."""
    text = f"{number(row['ratio'])}x"
    if row["pairs"] > 1:
        text += " ({}-{})".format(*map(number, row["ratio_range"]))
    return f"**{text}**" if row["ratio"] < 1 else text


def number(value: float) -> str:
    """Write a number with three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def machine_text(runs: list[Entry]) -> str:
    """Return when, on what and with which versions the scripts ran."""
    machines = dict.fromkeys(
        "{processor}, {cores} cores, {memory_gb} GB".format_map(run["machine"]) for run in runs
    )
    loads = [run["machine"]["load"] for run in runs]
    versions: dict[str, list[str]] = {}
    for run in runs:
        text = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
        versions.setdefault(text, []).append(f"`{run['script']}`")
    lines = [
        f"- Machine: {'; '.join(machines)}; load {min(loads):.1f} to {max(loads):.1f} when scripts began.",
        f"- Date: {max((run['date'] for run in runs), default='')}.",
    ]
    first, *others = versions.items()
    lines.append(f"- Versions: {first[0]}.")
    lines += [f"- Versions for {', '.join(dict.fromkeys(scripts))}: {text}." for text, scripts in others]
    return "\n".join(lines)


def replace_blocks(path: Path, blocks: dict[str, str], *, script: str) -> None:
    """Put each text between its markers in a page.

    Parameters
    ----------
    path
        The page.
    blocks
        Name of the block -> text.
    script
        Who writes it, as the marker says: "benchmarks/simulation_study.py".

    Raises
    ------
    SystemExit
        If the page lacks a marker.
    """
    page = path.read_text(encoding="utf-8")
    for name, text in blocks.items():
        begin, end = BEGIN.format(name=name, script=script), END.format(name=name)
        if page.count(begin) != 1 or page.count(end) != 1:
            raise SystemExit(f"{path}: put '{begin}' and '{end}' where '{name}' belongs")
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    path.write_text(page, encoding="utf-8")


def main() -> None:
    """Replace the blocks of the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    found = blocks(read_record(parser.parse_args().file))
    replace_blocks(PAGE, found, script="benchmarks/benchmarks_page.py")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
