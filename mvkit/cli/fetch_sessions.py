"""From the words of ``mvkit fetch neural`` to the sessions that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvkit.acquire.allen.wanted import SessionsWanted

PUBLISHED, ALLENSDK = "published", "allensdk"
CALCIUM = "calcium"

# How options are called in the library.
_OF_REQUEST = {
    "--areas": "areas",
    "--stimulus": "stimulus",
    "--bin-ms": "bin_ms",
    "--window-ms": "window_ms",
    "--isi-violations": "max_isi_violations",
    "--amplitude-cutoff": "max_amplitude_cutoff",
    "--presence-ratio": "min_presence_ratio",
}
_OF_SESSIONS = {
    "--sessions-from": "sessions_from",
    "--reader": "reader",
    "--sessions": "only",
    "--exclude-sessions": "without",
    "--reliability": "reliability",
}
_OF_SPIKES = ("--bin-ms", "--window-ms", "--isi-violations", "--amplitude-cutoff", "--presence-ratio")
_LISTS = ("--areas", "--sessions", "--exclude-sessions")
_NUMBERS = ("--sessions", "--exclude-sessions")


def sessions_wanted(source: str, dataset: str | None, options: Mapping[str, Any]) -> SessionsWanted | None:
    """Return the sessions that the options describe; None if the source is not AllenSDK.

    Parameters
    ----------
    source
        Value of ``--source``.
    dataset
        Value of ``--dataset``.
    options
        Other options by name; None is one that was not given.

    Raises
    ------
    UsageError
        For an unknown source, options that do not go with it, or values that cannot be meant.
    """
    from mvkit.errors import UsageError
    from mvkit.naming import unknown_name

    given = {name: value for name, value in options.items() if value is not None}
    if source not in (PUBLISHED, ALLENSDK):
        raise unknown_name("source", source, (PUBLISHED, ALLENSDK))
    if source == PUBLISHED:
        others = [name for name in given if name != "--from"]
        if others:
            raise UsageError(f"{', '.join(others)}: only for recording sessions: add --source {ALLENSDK}")
        return None
    if "--from" in given:
        raise UsageError("--from is for published pickles; session files are named by --sessions-from DIR")
    from mvkit.acquire.allen.request import SessionRequest
    from mvkit.acquire.allen.wanted import SessionsWanted

    about_spikes = [name for name in _OF_SPIKES if name in given]
    if dataset == CALCIUM and about_spikes:
        raise UsageError(f"{', '.join(about_spikes)}: only for spikes, not for --dataset {CALCIUM}")
    values: dict[str, Any] = {
        name: _split(name, value) if name in _LISTS else value for name, value in given.items()
    }
    request = {keyword: values[name] for name, keyword in _OF_REQUEST.items() if name in values}
    sessions = {keyword: values[name] for name, keyword in _OF_SESSIONS.items() if name in values}
    return SessionsWanted(dataset=dataset or "", request=SessionRequest(**request), **sessions)


def _split(option: str, words: list[str]) -> tuple[Any, ...]:
    """Return the parts of words like ``1,2``; each once, in order."""
    from mvkit.errors import UsageError

    parts = [part.strip() for word in words for part in word.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{option}: names nothing")
    if option in _NUMBERS:
        for part in parts:
            if not part.isdecimal():
                raise UsageError(f"{option}: '{part}' is no number of a session")
        return tuple(dict.fromkeys(int(part) for part in parts))
    return tuple(dict.fromkeys(parts))
