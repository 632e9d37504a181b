"""Trying again: exponential waits with jitter, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mvkit.fetch.failures import TransientError
from mvkit.fetch.settings import RetrySettings

T = TypeVar("T")


def wait_s(n_failures: int, failure: TransientError, settings: RetrySettings) -> float:
    """Return the seconds to wait after the ``n_failures``-th failure in a row (counted from 1).

    A server's ``Retry-After`` is honoured up to ``longest_retry_after_s``. Otherwise the wait doubles with
    every failure and is drawn from its upper half, so that many clients do not return together.
    """
    if failure.at_once:
        return 0.0
    if failure.retry_after_s is not None:
        return min(failure.retry_after_s, settings.longest_retry_after_s)
    full = min(settings.first_wait_s * 2.0 ** (n_failures - 1), settings.longest_wait_s)
    return full * (0.5 + 0.5 * settings.jitter())


def call_with_retries(
    action: Callable[[], T],
    *,
    n_bytes: Callable[[], int],
    settings: RetrySettings,
    remark: Callable[[str], None],
) -> T:
    """Call ``action`` until it succeeds.

    Parameters
    ----------
    action
        Raises TransientError to be called again; other errors pass.
    n_bytes
        Bytes received so far. Failures count in a row only while no attempt reaches ``fresh_bytes`` beyond
        the furthest point of any before: a long file over a poor line is not given up while it grows, and
        a server that always starts again from zero and breaks off is not asked for ever.
    settings
        Number of attempts and waits.
    remark
        Told of every wait.

    Raises
    ------
    TransientError
        The last failure, once ``settings.attempts`` failed in a row.
    """
    n_failures = 0
    furthest = n_bytes()
    while True:
        try:
            return action()
        except TransientError as failure:
            received = n_bytes()
            if received >= furthest + settings.fresh_bytes:
                furthest, n_failures = received, 0
            n_failures += 1
            if n_failures >= settings.attempts:
                raise
            seconds = wait_s(n_failures, failure, settings)
            pause = f"trying again in {seconds:.0f} s" if seconds >= 0.5 else "trying again"
            remark(f"{failure.reason}: {pause} ({n_failures} of {settings.attempts} attempts)")
            settings.sleep(seconds)
