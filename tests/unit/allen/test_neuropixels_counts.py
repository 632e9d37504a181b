"""Spikes in time bins: edges of bins, and intervals that overlap."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mvkit.allen.neuropixels import count_spikes, mask_overlaps
from mvkit.allen.request import SessionRequest

EDGES = SessionRequest(window_ms=(0, 30)).edges_s


def test_a_spike_on_an_inner_edge_counts_in_both_bins() -> None:
    onset = np.array([8.0])
    spikes = [8.0 + EDGES[1]]
    assert count_spikes(np.array(spikes), onset, EDGES).tolist() == [[1, 1, 0]]
    assert count_spikes(np.nextafter(spikes, -np.inf), onset, EDGES).tolist() == [[1, 0, 0]]
    assert count_spikes(np.nextafter(spikes, np.inf), onset, EDGES).tolist() == [[0, 1, 0]]


def test_the_first_and_the_last_edge_belong_to_the_window() -> None:
    onset = np.array([8.0])
    both = np.array([8.0, 8.0 + EDGES[-1]])
    assert count_spikes(both, onset, EDGES).tolist() == [[1, 0, 1]]
    outside = np.array([np.nextafter(8.0, 0), np.nextafter(both[1], np.inf)])
    assert count_spikes(outside, onset, EDGES).tolist() == [[0, 0, 0]]


def test_a_unit_without_spikes_has_no_counts() -> None:
    assert not count_spikes(np.empty(0), np.array([1.0, 2.0]), EDGES).any()


@given(
    spikes=st.lists(st.integers(0, 400), max_size=60),
    onsets=st.lists(st.integers(0, 300), min_size=1, max_size=5),
)
def test_counts_equal_comparing_every_spike_with_every_bin(spikes: list[int], onsets: list[int]) -> None:
    # Multiples of 1/128 s are exact, so that many spikes fall on edges.
    times, starts = np.sort(spikes) / 128, np.array(onsets) / 128
    edges = np.arange(6) / 64
    low, high = starts[:, None] + edges[:-1], starts[:, None] + edges[1:]
    wanted = ((times >= low[..., None]) & (times <= high[..., None])).sum(axis=-1)
    assert np.array_equal(count_spikes(times, starts, edges), wanted)


def test_intervals_that_touch_overlap() -> None:
    start, stop = np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
    assert mask_overlaps(start, stop, np.array([[2.0, 2.0]])).tolist() == [False, True, True]
    assert not mask_overlaps(start, stop, np.empty((0, 2))).any()
