"""Presentations of images, in any order: which image and which trial each is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import natural_key
from mvkit.neural.grey_images import GreyImages, image_layouts, to_grey
from mvkit.neural.nwb import order_presentations
from mvkit.neural.own.request import Notes, as_name, count


def match_images(ids: NDArray[Any], stimuli: GreyImages, what: str, notes: Notes) -> NDArray[np.int64]:
    """Return the index of the image of every presentation, -1 for the grey screen.

    Ids are numbers of images, counted from 0, or from 1 if the largest is the number of images and 0 does
    not occur; or names of image files, with or without ending, or the numbers that these consist of.
    """
    n_images = len(stimuli.images)
    stems = [name.rpartition(".")[0] for name in stimuli.names]
    if ids.dtype.kind in "OUS":
        asked = np.array([as_name(one) for one in ids])
        index = {name: position for position, name in enumerate(stems)}
        index |= {name: position for position, name in enumerate(stimuli.names)}
        if not index and all(re.fullmatch(r"-?\d+", one) for one in set(asked.tolist())):
            return match_images(asked.astype(np.int64), stimuli, what, notes)
        unknown = sorted({one for one in asked.tolist() if one not in index}, key=natural_key)
        if unknown:
            reason = "the stimuli have no names" if not index else f"valid: {', '.join(list(stems)[:3])}, ..."
            raise DataError(f"{what}: no stimulus is called '{unknown[0]}' ({reason})")
        return np.array([index[one] for one in asked.tolist()], dtype=np.int64)
    values = np.asarray(ids, dtype=np.float64)
    if np.isnan(values).any():
        notes.add(f"{count(int(np.isnan(values).sum()), 'presentation')} without an image left out")
    known = np.where(np.isnan(values), -1, values)
    if (known != np.trunc(known)).any():
        raise DataError(f"{what}: {known[known != np.trunc(known)][0]} is no number of an image")
    whole = known.astype(np.int64)
    n_grey = int((values < 0).sum())
    if n_grey:
        notes.add(f"{count(n_grey, 'presentation')} of images below 0 (grey screen) left out")
    if stems and all(stem.isdecimal() for stem in stems):
        by_number = {int(stem): position for position, stem in enumerate(stems)}
        if set(whole[whole >= 0].tolist()) <= by_number.keys():
            named = np.array([by_number.get(one, -1) for one in whole.tolist()], dtype=np.int64)
            if not np.array_equal(named, np.maximum(whole, -1)):
                notes.add("images are matched by the numbers that their files are called")
            return named
    largest = int(whole.max(initial=-1))
    if largest == n_images and not (whole == 0).any():
        notes.add("ids of images are counted from 1")
        return np.where(whole > 0, whole - 1, -1)
    if largest >= n_images:
        row = int(np.argmax(whole >= n_images))
        raise DataError(
            f"{what}: image {whole[row]} at presentation {row}, but there are {n_images} stimuli "
            f"(0 to {n_images - 1})"
        )
    return np.maximum(whole, -1)


def grey_of_ids(stimuli: NDArray[Any], ids: NDArray[Any], what: str) -> GreyImages:
    """Return the images of an array, whose first or last axis has the images that ids stand for.

    Parameters
    ----------
    stimuli
        As :func:`mvkit.neural.grey_images.to_grey` takes it.
    ids
        Image of each presentation; numbers tell how many there are at least.
    what
        Name of the stimuli, for messages.
    """
    sizes = [layout.n_images for layout in image_layouts(stimuli.shape)]
    n_images = None
    if ids.dtype.kind in "iuf":
        known = np.unique(ids[np.isfinite(ids) & (ids >= 0)])
        largest = int(known.max(initial=0))
        enough = [size for size in sizes if size >= largest]
        # As many as there are ids; else as many as they need.
        likely = [size for size in (*sizes[:1], *enough) if size == len(known)] + enough
        n_images = likely[0] if likely else None
    return to_grey(stimuli, n_images=n_images, what=what)


def by_trial_and_image(
    values: NDArray[Any],
    images: NDArray[np.int64],
    trial_ids: NDArray[Any] | None,
    n_images: int,
    what: str,
    notes: Notes,
) -> NDArray[Any]:
    """Arrange presentations by trial and image.

    Parameters
    ----------
    values
        Responses (n_presentations, n_units).
    images
        int64 (n_presentations,), index of the image, -1 for none.
    trial_ids
        Labels (n_presentations,) of trials; None counts them in the order of the presentations.
    n_images
        Number of stimuli.
    what
        Name of the presentations, for messages.
    notes
        Gets what was done.

    Returns
    -------
    NDArray
        Floats (n_trials, n_images, n_units), NaN = missing.

    Raises
    ------
    DataError
        If a trial of an image occurs twice, or there is no presentation.
    """
    trials = _number_trials(images, trial_ids, what, notes)
    shown = images >= 0
    n_trials = int(trials[shown].max(initial=-1)) + 1
    places = trials[shown] * n_images + images[shown]
    unique, counts = np.unique(places, return_counts=True)
    if (counts > 1).any():
        trial, image = divmod(int(unique[counts > 1][0]), n_images)
        raise DataError(f"{what}: trial {trial} of image {image} (counted from 0) occurs more than once")
    dtype = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    arranged = np.full((n_trials, n_images, values.shape[1]), np.nan, dtype=dtype)
    arranged[trials[shown], images[shown]] = values[shown]
    return arranged


def _number_trials(
    images: NDArray[np.int64], trial_ids: NDArray[Any] | None, what: str, notes: Notes
) -> NDArray[np.int64]:
    """Return the trial of every presentation, from 0: by its label, or in the order of presentations.

    Labels that count all presentations of a session number the trials of each image by their order.
    """
    shown = np.flatnonzero(images >= 0)
    trials = np.full(len(images), -1, dtype=np.int64)
    if not len(shown):
        raise DataError(f"{what}: no presentation of an image")
    if trial_ids is None:
        found = order_presentations(np.arange(len(images)), images.astype(np.float64), images < 0)
        trials[shown] = found.trial_index
        return trials
    if len(trial_ids) != len(images):
        raise DataError(f"{what}: {len(trial_ids)} ids of trials for {len(images)} presentations")
    labels, codes = np.unique(trial_ids[shown], return_inverse=True)
    if len(labels) == len(shown) and len(np.unique(images[shown])) > 1:
        notes.add("trial numbers count presentations: trials are numbered anew within each image")
        order = order_presentations(codes, images[shown].astype(np.float64), np.zeros(len(shown), dtype=bool))
        trials[shown[np.argsort(codes, kind="stable")]] = order.trial_index
        return trials
    trials[shown] = codes
    return trials
