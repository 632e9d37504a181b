"""What ``mvkit score --dry-run`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mvkit.fetch.sizes import readable
from mvkit.report.estimate import CeilingNeeds, LayerNeeds, ModelNeeds, RunEstimate

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_MINUTE_S, _HOUR_S = 60, 3600


def estimate_page(estimate: RunEstimate) -> Iterator[str | RenderableType]:
    """Yield the lines and tables of an estimate in the order of printing; text is to be printed as a line.

    Parameters
    ----------
    estimate
        The estimate.
    """
    settings = estimate.settings
    yield (
        f"{estimate.dataset}: {estimate.n_images} images, {estimate.n_recordings} recordings, "
        f"{estimate.n_units} units; {settings['mapping']}, {settings['n_splits']} image splits, "
        f"{settings['n_halves']} halvings, {_counted(estimate.n_workers, 'worker process', 'es')}"
    )
    yield ""
    for model in estimate.models:
        yield f"{model.name}: {_counted(len(model.layers), 'layer')}, {_features(model)}"
        yield layer_table(model.layers, n_recordings=model.n_recordings)
        yield from _model_lines(model)
        yield ""
    if estimate.ceiling is not None:
        yield _ceiling_line(estimate.ceiling)
    left_out = "starting worker processes and intervals"
    if estimate.extrapolate is not None:
        left_out = f"{left_out}, and the ceiling over the number of {estimate.extrapolate}"
    yield f"whole run: about {duration(estimate.seconds)} with every core free; not counted: {left_out}"
    if estimate.fits:
        yield "nothing was kept; the same command without --dry-run does it"


def layer_table(layers: tuple[LayerNeeds, ...], *, n_recordings: int) -> Table:
    """Lay out layers: shape for one image, width, bytes for all images, and what is kept if anything is."""
    from rich.table import Table
    from rich.text import Text

    kept = any(layer.n_kept for layer in layers)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for column in ("shape", "features", "bytes", *(("kept",) if kept else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in layers:
        cells = [
            " x ".join(map(str, layer.shape)),
            str(layer.n_features),
            readable(layer.n_bytes),
            *((f"{layer.n_kept} of {n_recordings}",) if kept else ()),
        ]
        table.add_row(Text(layer.name), *cells)
    return table


def duration(seconds: float) -> str:
    """Write seconds as a person would: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    minutes = round(seconds / _MINUTE_S)
    return f"{minutes // 60} h {minutes % 60} min"


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _features(model: ModelNeeds) -> str:
    where = "in memory"
    if model.disk.needed:
        where = f"in {model.disk.folder} while they are needed ({readable(model.disk.free)} free)"
    elif model.n_kept == model.n_pairs:
        where = "not needed: every score is kept"
    return f"features {readable(model.n_bytes)}, {where}"


def _model_lines(model: ModelNeeds) -> Iterator[str]:
    memory, seconds = model.memory, model.seconds
    if model.n_kept:
        yield f"scores kept: {model.n_kept} of {model.n_pairs} pairs of layer and recording"
    available = "" if memory.available is None else f"; {readable(memory.available)} more are available"
    largest = max((memory.batch, "a batch"), (memory.blocks, "blocks"), (memory.whole, "float64 features"))
    yield (
        f"memory: peak about {readable(memory.peak)} ({readable(memory.started)} libraries, weights and "
        f"recordings, {readable(memory.features)} features, {readable(largest[0])} {largest[1]}){available}"
    )
    yield (
        f"time: {duration(seconds.forward)} forward pass, {duration(seconds.preparing)} inner products and "
        f"splits, {duration(seconds.fits)} for {model.n_fits} fits"
    )


def _ceiling_line(ceiling: CeilingNeeds) -> str:
    what = "kept already" if ceiling.is_kept else f"about {duration(ceiling.seconds)}"
    return f"ceiling between animals ({ceiling.kind}): {what}"
