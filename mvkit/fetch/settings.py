"""How downloads behave, and how they tell what they are doing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

#: Called with (done, total) bytes as work proceeds; total is 0 when unknown.
ProgressCallback = Callable[[int, int], None]


def _no_progress(label: str) -> AbstractContextManager[ProgressCallback]:
    return nullcontext(lambda done, total: None)


def _no_remark(text: str) -> None:
    return None


@dataclass(frozen=True)
class Feedback:
    """Where progress and remarks for the person watching go; silent by default.

    Attributes
    ----------
    remark
        Receives one line of text: a retry, a wait for another process, a restart.
    progress
        Opens a progress display for a labelled piece of work.
    """

    remark: Callable[[str], None] = _no_remark
    progress: Callable[[str], AbstractContextManager[ProgressCallback]] = _no_progress


@dataclass(frozen=True)
class RetrySettings:
    """When a failed request is tried again.

    Attributes
    ----------
    attempts
        Attempts in a row that bring nothing new before giving up.
    first_wait_s, longest_wait_s
        Wait after the first failure; it doubles with each further one up to the longest.
    longest_retry_after_s
        Upper bound on the wait that a server may ask for (``Retry-After``).
    fresh_bytes
        An attempt that brought at least this much more of the file than any before does not count as failed.
    sleep
        Waits the given seconds (tests replace it).
    jitter
        Draws from [0, 1); the wait is the full one times (0.5 + 0.5 jitter).
    """

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    longest_retry_after_s: float = 120.0
    fresh_bytes: int = 1 << 20
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True)
class DownloadSettings:
    """Time limits, block size and retries of a download."""

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    # Small enough that a reset connection loses little, large enough for full disk speed.
    block_bytes: int = 1 << 16
    retry: RetrySettings = field(default_factory=RetrySettings)
