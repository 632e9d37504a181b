"""``mvkit prep``: images to the files that training reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    from collections.abc import Sequence

    from mvkit.images.prep import PrepPlan, PrepReport

_MACHINE = "Machine"


class OnErrorChoice(StrEnum):
    """What unreadable images do."""

    fail = "fail"
    skip = "skip"


def command(
    recipe: Annotated[
        str | None,
        typer.Argument(help="imagenet_64, imagenet_full, cifar10, pbrnet, or the path of a prep recipe."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", "-i", metavar="DIR", help="Folder of the images.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write; default: images/RECIPE at home."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."),
    ] = None,
    on_error: Annotated[
        OnErrorChoice,
        typer.Option(
            "--on-error",
            help="Unreadable images: fail ends before anything is final, skip leaves them out.",
        ),
    ] = OnErrorChoice.fail,
    verify: Annotated[
        Path | None,
        typer.Option("--verify", metavar="FILE", help="Read a finished .beton completely; write nothing."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show counts, sizes and files; write nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files of another recipe or other images.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read images; default: all cores.", rich_help_panel=_MACHINE),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an image folder, CIFAR-10 or image/depth pairs as FFCV .beton files."""
    from mvkit.errors import UsageError

    n_workers = workers or _usable_cores()
    if verify is not None:
        if recipe is not None or images is not None:
            raise UsageError("--verify takes a file and neither RECIPE nor --images")
        _verify(verify, n_workers, as_json=as_json)
        return
    if recipe is None or images is None:
        missing = "RECIPE" if recipe is None else "--images DIR"
        raise UsageError(f"{missing} is missing: mvkit prep RECIPE --images DIR, or mvkit prep --verify FILE")

    from mvkit.images.prep import load_prep_recipe, plan, prepare
    from mvkit.paths import images_dir

    settings = load_prep_recipe(recipe, overrides or [])
    folder = out or images_dir(settings.name, Path(home) if home else None)
    if dry_run:
        planned = plan(settings, images, folder)
        if as_json:
            print_json({**planned.to_json(), "settings": settings.model_dump(mode="json")})
        else:
            _print_plan(planned)
        return
    with progress_bar("images", unit="images") as progress:
        report = prepare(
            settings,
            images,
            folder,
            workers=n_workers,
            on_error=on_error.value,
            force=force,
            progress=progress,
            remark=note,
        )
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)


def _usable_cores() -> int:
    import os

    # Containers often allow fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _verify(path: Path, workers: int, *, as_json: bool) -> None:
    from mvkit.images.prep import verify_beton

    with progress_bar("images", unit="images") as progress:
        report = verify_beton(path, workers=workers, progress=progress)
    if as_json:
        print_json(report.to_json())
        return
    classes = "without labels" if report.classes is None else f"{report.classes} classes"
    print_line(f"{path}: whole; {report.n_images} images, {classes}, {_size(report.n_bytes)}")
    if not report.with_ffcv:
        note("FFCV is not installed: its own reader was not asked")


def _print_plan(planned: PrepPlan) -> None:
    from rich.table import Table

    table = Table(title=f"{planned.recipe}: {planned.images}")
    for title in ("split", "images", "classes", "source", "size (estimated)", "file", "there now"):
        table.add_column(title, justify="left" if title in ("split", "file", "there now") else "right")
    for split in planned.splits:
        table.add_row(
            split.split,
            str(split.n_images),
            "-" if split.classes is None else str(len(split.classes)),
            _size(split.source_bytes),
            _size(split.estimated_bytes),
            str(split.path),
            split.state,
        )
    print_renderable(table)
    _print_crops([report.to_json() for report in planned.crops])
    print_line(f"to write: about {_size(planned.needed_bytes)}; free: {_size(planned.free_bytes)}")
    for split in planned.splits:
        for bad in split.unreadable:
            note(f"cannot be read: {bad.name}: {bad.reason}")


def _print_report(report: PrepReport) -> None:
    for split in report.splits:
        sidecar = split.sidecar
        done = "was there already" if split.was_there else "written and read back"
        print_line(f"{split.path}: {sidecar.n_images} images, {_size(sidecar.n_bytes)}, {done}")
        for failure in sidecar.failures:
            print_line(f"  left out: {failure.path}: {failure.reason}")
    _print_crops(report.splits[0].sidecar.crops)


def _print_crops(crops: Sequence[Any]) -> None:
    """Say what storing images at this size does to the crops."""
    for crop in crops:
        stored, source = _enlarged(crop["stored"]), _enlarged(crop["source"])
        print_line(
            f"crops {crop['crop']} enlarged to {crop['view_px']} px: {stored}; from the originals {source}"
        )


def _enlarged(part: Any) -> str:
    if part["median_factor"] is None:
        return "none"
    return f"{100 * part['fraction']:.1f} % (median {part['median_factor']:.2f} x)"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
