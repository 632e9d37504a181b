"""Messages as somebody who typed a command reads them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mvkit.errors import command_line


@pytest.fixture(autouse=True)
def as_a_command() -> Iterator[None]:
    """Word messages for the command line."""
    with command_line():
        yield
