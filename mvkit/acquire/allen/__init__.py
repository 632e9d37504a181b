"""Recordings of the Allen Brain Observatory, session by session, made into neural files.

Names below are loaded when first used (PEP 562): the AllenSDK environment imports parts of this package only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit.lazy import lazy_names

if TYPE_CHECKING:
    from mvkit.acquire.allen.fetching import fetch_sessions
    from mvkit.acquire.allen.planning import plan_sessions
    from mvkit.acquire.allen.request import SessionRequest
    from mvkit.acquire.allen.wanted import SessionsWanted

_HOMES = {
    "SessionRequest": "mvkit.acquire.allen.request",
    "SessionsWanted": "mvkit.acquire.allen.wanted",
    "fetch_sessions": "mvkit.acquire.allen.fetching",
    "plan_sessions": "mvkit.acquire.allen.planning",
}

__all__ = ["SessionRequest", "SessionsWanted", "fetch_sessions", "plan_sessions"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
