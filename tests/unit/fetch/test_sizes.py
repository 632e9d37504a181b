"""Byte counts in words."""

from __future__ import annotations

import pytest

from mvkit.fetch import readable


@pytest.mark.parametrize(
    "n_bytes, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (228_123_456, "228.1 MB"),
        (9_800_000_000, "9.8 GB"),
        (12_340_000_000_000, "12.3 TB"),
    ],
)
def test_readable(n_bytes: int, text: str) -> None:
    assert readable(n_bytes) == text
