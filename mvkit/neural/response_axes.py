"""The order of the axes of responses: checked against the stimuli, or found by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from mvkit.errors import DataError, UsageError, option_name, unknown_name

TRIALS, IMAGES, UNITS, PRESENTATIONS = "trials", "images", "units", "presentations"
#: Axes of responses in a neural file.
FULL = (TRIALS, IMAGES, UNITS)
#: Axes of responses with a row for every presentation of an image.
FLAT = (PRESENTATIONS, UNITS)
_SINGULAR = {"trial": TRIALS, "image": IMAGES, "unit": UNITS, "presentation": PRESENTATIONS}
_ORDINALS = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True)
class AxisLengths:
    """What is known of the lengths of the axes.

    Attributes
    ----------
    images
        Number of stimuli.
    units
        Number of ids of units, None if none are given.
    presentations
        Number of ids of images, one per presentation; None if none are given.
    """

    images: int
    units: int | None = None
    presentations: int | None = None

    def fit(self, axes: Sequence[str], shape: Sequence[int]) -> bool:
        """Tell whether axes in this order may have this shape."""
        known = {IMAGES: self.images, UNITS: self.units, PRESENTATIONS: self.presentations}
        return all(known.get(axis) in (None, size) for axis, size in zip(axes, shape, strict=True))


def parse_axes(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of axes, such as ``("trials", "images", "units")`` for ``trials,images,units``.

    Raises
    ------
    UsageError
        If a name is unknown, or the names are neither trials, images and units nor presentations and units.
    """
    parts = text.split(",") if isinstance(text, str) else list(text)
    axes = tuple(_SINGULAR.get(part.strip().lower(), part.strip().lower()) for part in parts)
    for axis in axes:
        if axis not in (*FULL, PRESENTATIONS):
            raise unknown_name("axis", axis, (*FULL, PRESENTATIONS))
    if sorted(axes) not in (sorted(FULL), sorted(FLAT)):
        raise UsageError(
            f"axes {','.join(axes)}: give {','.join(FULL)} in their order, or {','.join(FLAT)} "
            "with the image of each presentation"
        )
    return axes


def find_axes(
    shape: Sequence[int],
    lengths: AxisLengths,
    axes: tuple[str, ...] | None,
    *,
    what: str,
    option: str = "axes ",
) -> tuple[tuple[str, ...], str]:
    """Check the order of axes, or find it where none is given.

    Parameters
    ----------
    shape
        Of the responses, two or three axes.
    lengths
        Lengths that are known.
    axes
        Order given, None for none: then the only one that fits, or trials, images, units if it fits and the
        images are in one place only.
    what
        Name of the responses, for messages.
    option
        How an order is given, for messages.

    Returns
    -------
    axes, note
        The order, and by what it was found; "" where it was given.

    Raises
    ------
    UsageError
        If the order given does not fit, or several fit.
    DataError
        If none does.
    """
    shape = tuple(shape)
    are = f"{what} are {shape}"
    if len(shape) == len(FLAT) and lengths.presentations is None:
        raise DataError(
            f"{are}: two axes, but single trials are needed, since reliability is measured between trials\n"
            f"give three axes ({','.join(FULL)}), or presentations,units with "
            f"{option_name('image_ids')} KEY, the image "
            "of each presentation"
        )
    names = {len(FULL): FULL, len(FLAT): FLAT}.get(len(shape))
    if len(shape) < len(FLAT):
        raise DataError(f"{are}: too few axes; give {','.join(FULL)}")
    if names is None:
        raise DataError(f"{are}: {len(shape)} axes; average over time first, to have {','.join(FULL)}")
    if axes is not None and len(axes) != len(shape):
        raise UsageError(f"{are}: {len(shape)} axes, and {','.join(axes)} names {len(axes)}")
    orders = [order for order in permutations(names) if lengths.fit(order, shape)]
    if axes is not None:
        if axes in orders:
            return axes, ""
        # Of trials and units, the order given is kept where it can be.
        rest = [axis for axis in axes if axis != IMAGES]
        alike = [order for order in orders if [axis for axis in order if axis != IMAGES] == rest]
        raise UsageError(f"{are}; {_advice(shape, lengths, alike or orders, option)}")
    is_default = names in orders and len({order.index(names[-2]) for order in orders}) == 1
    if len(orders) == 1 or is_default:
        chosen = orders[0] if len(orders) == 1 else names
        by_default = "" if len(orders) == 1 else "; trials before units by default"
        return chosen, f"axes: {','.join(chosen)} ({_found_by(chosen, lengths)}{by_default})"
    raise UsageError(f"{are}; {_advice(shape, lengths, orders, option)}")


def _found_by(axes: tuple[str, ...], lengths: AxisLengths) -> str:
    """Return by what an order was found: ``118 images fit the second axis, ids of units the third``."""
    if IMAGES in axes:
        first = f"{lengths.images} images fit the {_ORDINALS[axes.index(IMAGES)]} axis"
    else:
        first = f"ids of images fit the {_ORDINALS[axes.index(PRESENTATIONS)]} axis"
    return first if lengths.units is None else f"{first}, ids of units the {_ORDINALS[axes.index(UNITS)]}"


def _advice(
    shape: tuple[int, ...], lengths: AxisLengths, orders: Sequence[tuple[str, ...]], option: str
) -> str:
    fits = _fits(shape, lengths)
    if not orders:
        return f"{fits}: stimuli or ids are not those of these responses"
    if len(orders) == 1:
        return f"{fits}: give {option}{','.join(orders[0])}"
    choices = [f"{','.join(order)} ({_sizes(shape, order)})" for order in orders]
    return f"{fits}: give {option}{' or '.join(choices)}"


def _fits(shape: tuple[int, ...], lengths: AxisLengths) -> str:
    """Return which axes the known lengths fit, such as ``118 images fit the first axis``."""
    known = {"images": lengths.images, "ids of units": lengths.units}
    if len(shape) == len(FLAT):
        known = {"ids of images": lengths.presentations, "ids of units": lengths.units}
    parts = []
    for name, length in known.items():
        if length is None:
            continue
        where = [_ORDINALS[index] for index, size in enumerate(shape) if size == length]
        verb = "fit" if length != 1 else "fits"
        parts.append(f"{length} {name} {verb} {_listed(where)}")
    return ", ".join(parts)


def _listed(where: Sequence[str]) -> str:
    if not where:
        return "no axis"
    return f"the {' and '.join(where)} axis" if len(where) == 1 else f"the {' and '.join(where)} axes"


def _sizes(shape: tuple[int, ...], order: tuple[str, ...]) -> str:
    return ", ".join(
        f"{size} {axis}"
        for axis, size in zip(order, shape, strict=True)
        if axis not in (IMAGES, PRESENTATIONS)
    )
