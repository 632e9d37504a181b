"""A misbehaving file server, and settings that do not wait."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mvkit.fetch.download import DownloadSettings, Feedback


@pytest.fixture
def server(faulty: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running server; proxies of the machine do not stand between."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with faulty.running() as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    """Seconds that the code under test wanted to wait."""
    return []


@pytest.fixture
def messages() -> list[str]:
    """Messages that the code under test logged."""
    return []


@pytest.fixture
def settings(waits: list[float]) -> DownloadSettings:
    """Four attempts, waits noted instead of waited for, small blocks."""
    return DownloadSettings(
        connect_timeout_s=5,
        read_timeout_s=5,
        block_bytes=1024,
        attempts=4,
        sleep=waits.append,
        jitter=lambda: 1.0,
        fresh_bytes=20_000,
    )


@pytest.fixture
def feedback(messages: list[str]) -> Feedback:
    """Feedback that collects messages."""
    return Feedback(log=messages.append)


@pytest.fixture
def body() -> bytes:
    """A file of 100,003 random bytes that begins as a zip archive does."""
    return b"PK\x03\x04" + np.random.default_rng(5).bytes(99_999)
