"""Jobs here and in worker processes."""

from __future__ import annotations

from os.path import commonprefix

import pytest

from mvkit.errors import UsageError
from mvkit.scoring.processes import in_order, worker_count


def test_none_is_refused() -> None:
    with pytest.raises(UsageError, match="n_jobs=0"):
        worker_count(0)


def test_numbers_are_taken_as_they_are() -> None:
    assert worker_count(3) == 3
    assert worker_count(-1) >= 1


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_come_in_the_order_of_the_jobs(n_jobs: int) -> None:
    warmed: list[bool] = []
    jobs = [([f"{number}{number}a", f"{number}{number}b"],) for number in range(5)]
    found = in_order(commonprefix, jobs, n_jobs=n_jobs, warm_up=lambda: warmed.append(True))
    assert list(found) == ["00", "11", "22", "33", "44"]
    assert warmed == ([] if n_jobs == 1 else [True])
