"""Fetching files over HTTP so that nothing half-written ever carries a final name.

Decide, then act: ``plan`` looks at disk and server, ``fetch_file`` carries out, ``Manifest`` remembers what
every file must be. The package knows files only; which ones there are is told by :mod:`mvkit.acquire`.
"""

from mvkit.fetch.content import ContentCheck
from mvkit.fetch.disk import explaining_full_disk, free_bytes, require_free
from mvkit.fetch.download import Downloaded, download
from mvkit.fetch.failures import FetchHaltedError
from mvkit.fetch.fetching import Fetched, adopt, fetch_file
from mvkit.fetch.locks import holding
from mvkit.fetch.manifest import Manifest, Record, Verdict
from mvkit.fetch.plan import FileToFetch, PlannedFile, is_there, plan, state_of
from mvkit.fetch.settings import DownloadSettings, Feedback, RetrySettings
from mvkit.fetch.sizes import readable

__all__ = [
    "ContentCheck",
    "DownloadSettings",
    "Downloaded",
    "Feedback",
    "FetchHaltedError",
    "Fetched",
    "FileToFetch",
    "Manifest",
    "PlannedFile",
    "Record",
    "RetrySettings",
    "Verdict",
    "adopt",
    "download",
    "explaining_full_disk",
    "fetch_file",
    "free_bytes",
    "holding",
    "is_there",
    "plan",
    "readable",
    "require_free",
    "state_of",
]
