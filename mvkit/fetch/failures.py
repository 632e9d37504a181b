"""Ways in which a download fails, and what each means for trying again.

::

    FetchError              for the user: this file cannot be had, and why
    └── FetchHaltedError         ... and the next file would fare no better (no network, full disk)
    TransientError        inside the package: worth another attempt
"""

from __future__ import annotations

from mvkit.errors import FetchError


class FetchHaltedError(FetchError):
    """A download failed for a reason that would stop every other download too."""


class TransientError(Exception):
    """One attempt failed in a way that may pass.

    Parameters
    ----------
    reason
        What happened, in a few words.
    retry_after_s
        Seconds the server asked to wait, if it did.
    at_once
        Whether the next attempt may start without waiting (the server is well; only our partial file was
        no use).
    unreachable
        Whether no answer came at all.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after_s: float | None = None,
        at_once: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.at_once = at_once
        self.unreachable = unreachable
