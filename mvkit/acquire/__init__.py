"""Obtaining what has been published: checkpoints as they are, recordings converted to neural files.

Joins the downloader (:mod:`mvkit.fetch`), the table of released models, and the conversion of recordings.
"""

from mvkit.acquire.checkpoints import fetch_checkpoints, plan_checkpoints, verify_checkpoints
from mvkit.acquire.recordings import fetch_neural, plan_neural, verify_neural
from mvkit.acquire.reports import (
    FetchReport,
    FetchRequest,
    FileOutcome,
    PlannedStep,
    PlanReport,
    VerifyReport,
)

__all__ = [
    "FetchReport",
    "FetchRequest",
    "FileOutcome",
    "PlanReport",
    "PlannedStep",
    "VerifyReport",
    "fetch_checkpoints",
    "fetch_neural",
    "plan_checkpoints",
    "plan_neural",
    "verify_checkpoints",
    "verify_neural",
]
