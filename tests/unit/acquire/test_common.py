"""Disk over time, and which failures stop the files that follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvkit.acquire.common import DiskUse, Task, carry_out, peak_bytes
from mvkit.acquire.reports import FileOutcome
from mvkit.errors import FetchError
from mvkit.fetch import FetchHaltedError


def test_what_passes_is_counted_only_while_it_is_there() -> None:
    # 10 + 1 while the first runs; then 1 stays, and 1 + 3 + 2 while the second does.
    assert peak_bytes([DiskUse(lasting=1, passing=10), DiskUse(lasting=2, passing=3)]) == 11
    assert peak_bytes([DiskUse(lasting=2, passing=3), DiskUse(lasting=1, passing=10)]) == 13
    assert peak_bytes([]) == 0


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
def test_the_peak_lies_between_what_stays_and_everything_together(uses: list[tuple[int, int]]) -> None:
    peak = peak_bytes(DiskUse(lasting=lasting, passing=passing) for lasting, passing in uses)
    stays = sum(lasting for lasting, _ in uses)
    largest = max((passing for _, passing in uses), default=0)
    assert max(stays, largest) <= peak <= stays + largest


@pytest.mark.parametrize(
    "error, statuses",
    [
        (FetchError("no such file"), ["fetched", "failed", "fetched"]),
        (FetchHaltedError("no network"), ["fetched", "failed", "failed"]),
    ],
)
def test_only_what_befalls_all_stops_all(error: FetchError, statuses: list[str]) -> None:
    ran: list[str] = []

    def task(name: str) -> Task:
        def act() -> list[FileOutcome]:
            ran.append(name)
            if name == "second":
                raise error
            return [FileOutcome(name, "fetched", Path(name))]

        return Task(name, Path(name), act)

    outcomes = carry_out([task("first"), task("second"), task("third")])
    assert [outcome.status for outcome in outcomes] == statuses
    assert ran == ["first", "second", "third"][: 2 + (statuses[2] == "fetched")]
    assert outcomes[1].error == str(error)
    assert (outcomes[2].error is None) == (statuses[2] == "fetched")
