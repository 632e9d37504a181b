"""What the contents of a neural file must fulfil before it is created."""

from __future__ import annotations

import re

import numpy as np

from mvkit.errors import DataError
from mvkit.neural import layout
from mvkit.neural.layout import NeuralFileContents

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


def check_contents(contents: NeuralFileContents) -> None:
    """Raise :class:`DataError` when a neural file cannot hold these contents.

    Sizes must agree, no dimension may be empty, and columns need plain names,
    storable text and one entry per unit.
    """
    if 0 in contents.shape:
        raise DataError(f"{contents.dataset}: a dimension of the responses is empty: shape {contents.shape}")
    if contents.stimuli.dtype != np.uint8 or contents.stimuli.ndim != 3:
        raise DataError(
            f"{contents.dataset}: stimuli must be uint8 (images, height, width),"
            f" not {contents.stimuli.dtype} {contents.stimuli.shape}"
        )
    if len(contents.stimuli) != len(contents.frame_ids):
        raise DataError(
            f"{contents.dataset}: {len(contents.stimuli)} stimuli but responses to {len(contents.frame_ids)}"
        )
    if contents.response_dtype not in (np.dtype(np.uint8), np.dtype("f4"), np.dtype("f8")):
        raise DataError(
            f"{contents.dataset}: responses of type {contents.response_dtype} cannot be stored;"
            " use uint8 counts, float32 or float64"
        )
    for name, column in {**contents.unit_columns, **contents.reliabilities}.items():
        if _PLAIN_NAME.fullmatch(name) is None or name in layout.OWN_NAMES:
            raise DataError(
                f"{contents.dataset}: unit column {name!r} cannot be stored under that name;"
                " use letters, digits, '_', '.' and '-', and none of the names of the file itself"
            )
        wanted = contents.shape[-1:] if name in contents.unit_columns else contents.shape[-2:]
        if column.shape != wanted:
            raise DataError(
                f"{contents.dataset}: column '{name}' has shape {column.shape}, expected {wanted}"
            )
        if column.dtype.kind in "OU" and not all(_is_storable(str(text)) for text in column):
            raise DataError(f"{contents.dataset}: column '{name}' holds zero bytes or lone surrogates")
    if contents.reliabilities and contents.time_s is None:
        raise DataError(f"{contents.dataset}: reliabilities per time bin need responses with a time axis")


def _is_storable(text: str) -> bool:
    """Whether HDF5 can hold a text of variable length: UTF-8 without zero bytes."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
