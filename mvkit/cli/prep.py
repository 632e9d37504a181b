"""``mvkit prep``: images to the files that training reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvkit.cli.console import (
    MACHINE,
    HomeOption,
    JsonOption,
    complete_recipes,
    help_epilog,
    home_path,
    note,
    print_json,
    print_line,
    print_renderable,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mvkit.images.prep import PrepPlan, PrepReport

#: The end of ``mvkit prep --help``.
EPILOG = help_epilog(
    "mvkit prep imagenet_64 --images /path/to/imagenet --dry-run",
    "mvkit prep demo --images images",
    "mvkit prep --verify images/train.beton",
    learn_more="docs/reference/files.md: layouts of image folders, what is written",
)


class OnErrorChoice(StrEnum):
    """Effect of unreadable images on the run."""

    fail = "fail"
    skip = "skip"


def command(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="imagenet_64, imagenet_full, cifar10, pbrnet, or the path of a prep recipe.",
            show_default=False,
            autocompletion=complete_recipes("prep/"),
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", "-i", metavar="DIR", help="Folder of the images.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder to write.", show_default="HOME/images/RECIPE"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."),
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
        typer.Option(
            metavar="N",
            min=1,
            help="Processes that read images.",
            show_default="all cores",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an image folder, CIFAR-10 or image/depth pairs as FFCV .beton files."""
    from mvkit.errors import UsageError
    from mvkit.machine import available_cores

    n_workers = workers or available_cores()
    if verify is not None:
        if recipe is not None or images is not None:
            raise UsageError("--verify takes a file and neither RECIPE nor --images")
        _verify(verify, n_workers, as_json=as_json)
        return
    if recipe is None or images is None:
        needed = (
            "a RECIPE (such as imagenet_64)" if recipe is None else "--images DIR (the folder of your images)"
        )
        raise UsageError(f"prep needs {needed}: mvkit prep RECIPE --images DIR, or mvkit prep --verify FILE")

    from mvkit.images.prep import load_prep_recipe, plan, prepare
    from mvkit.paths import images_dir

    settings = load_prep_recipe(recipe, overrides or [])
    folder = out or images_dir(settings.name, home_path(home))
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
            log=note,
        )
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)


def _verify(path: Path, workers: int, *, as_json: bool) -> None:
    from mvkit.files import format_bytes
    from mvkit.images.beton import verify_beton

    with progress_bar("images", unit="images") as progress:
        report = verify_beton(path, workers=workers, progress=progress)
    if as_json:
        print_json(report.to_json())
        return
    classes = "without labels" if report.classes is None else f"{report.classes} classes"
    print_line(f"{path}: whole; {report.n_images} images, {classes}, {format_bytes(report.n_bytes)}")
    if not report.with_ffcv:
        note("FFCV is not installed: the file was not read with its own reader")


def _print_plan(planned: PrepPlan) -> None:
    from rich.table import Table

    from mvkit.files import format_bytes

    table = Table(title=f"{planned.recipe}: {planned.images}")
    for title in ("split", "images", "classes", "source", "size (estimated)", "file", "state"):
        table.add_column(title, justify="left" if title in ("split", "file", "state") else "right")
    for split in planned.splits:
        source = split.source
        table.add_row(
            source.split,
            str(source.n_images),
            "-" if source.classes is None else str(len(source.classes)),
            format_bytes(source.n_bytes),
            format_bytes(split.estimated_bytes),
            str(split.path),
            split.state,
        )
    print_renderable(table)
    _print_crops([report.to_json() for report in planned.crops])
    print_line(
        f"to write: about {format_bytes(planned.needed_bytes)}; free: {format_bytes(planned.free_bytes)}"
    )
    for split in planned.splits:
        for bad in split.unreadable:
            note(f"cannot be read: {bad.name}: {bad.reason}")


def _print_report(report: PrepReport) -> None:
    from mvkit.files import format_bytes

    for split in report.splits:
        sidecar = split.sidecar
        done = "existed already" if split.was_there else "written and read back"
        print_line(f"{split.path}: {sidecar.n_images} images, {format_bytes(sidecar.n_bytes)}, {done}")
        for failure in sidecar.failures:
            print_line(f"  left out: {failure.path}: {failure.reason}")
    _print_crops(report.splits[0].sidecar.crops)


def _print_crops(crops: Sequence[Any]) -> None:
    """Print how many crops are enlarged by storing images at this size."""
    for crop in crops:
        stored, source = _format_enlargement(crop["stored"]), _format_enlargement(crop["source"])
        print_line(
            f"crops {crop['crop']} enlarged to {crop['view_px']} px: {stored}; from the originals {source}"
        )


def _format_enlargement(part: Any) -> str:
    if part["median_factor"] is None:
        return "none"
    return f"{100 * part['fraction']:.1f} % (median {part['median_factor']:.2f} x)"
