"""Whatever recordings are written come back; runs and averages agree with brute force."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvkit.neural import Recording, open_dataset, write_neural_file
from mvkit.neural.selection import longest_run

N_IMAGES = 3


@st.composite
def recordings(draw: st.DrawFn) -> list[Recording]:
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(["VISp", "VISam", "LGd"]), st.integers(1, 2**40)),
            min_size=1,
            max_size=5,
            unique=True,
        )
    )
    made = []
    for area, specimen in places:
        n_trials, n_units = draw(st.integers(1, 13)), draw(st.sampled_from([1, 2, 70]))
        source = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        values = source.standard_normal((n_trials, N_IMAGES, n_units)).astype(
            draw(st.sampled_from(["f4", "f8"]))
        )
        values[source.random(values.shape) < draw(st.sampled_from([0, 0.3]))] = np.nan
        values[0, 0] = 1.0
        ids = source.permutation(10**6)[:n_units]
        made.append(Recording.from_arrays(values, unit_ids=ids, area=area, specimen=specimen))
    return made


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recordings())
def test_written_recordings_come_back(written: list[Recording]) -> None:
    stimuli = np.zeros((N_IMAGES, 4, 4), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = write_neural_file(Path(folder) / "x.h5", written, stimuli=stimuli, units_of_measure="a.u.")
        data = open_dataset(path)
    assert len(data.recordings) == len(written)
    for original in written:
        back = data.recording(original.area, original.specimen)
        np.testing.assert_array_equal(back.responses, original.responses.astype(np.float32))
        np.testing.assert_array_equal(back.unit_ids, original.unit_ids)


@given(st.lists(st.booleans(), max_size=12))
def test_longest_run_is_the_first_longest(flags: list[bool]) -> None:
    n = len(flags)
    runs = [range(a, b) for a in range(n) for b in range(a + 1, n + 1) if all(flags[a:b])]
    best = max(runs, key=len, default=range(0))
    assert longest_run(np.array(flags, dtype=bool)) == tuple(best)
