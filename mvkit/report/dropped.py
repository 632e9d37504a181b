"""How many halvings gave no corrected value, and for what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvkit.scoring import Scores

#: One cause as :func:`mvkit.scoring.correlation.explain` writes it: its name, an image, a count.
_CAUSE = re.compile(r"(?P<name>.+?)(?: \(image \d+\))? in (?P<count>\d+|all)")
_END = re.compile(r"(?: of \d+)? halvings$")


def dropped_halvings(scores: Scores) -> str:
    """Say how many halvings gave no corrected value, and why; "" if every one did.

    Averaging corrected halvings leaves these out, which favours the luckier halvings of unreliable units;
    correcting averages keeps those of negative reliability, and the sentence says so.
    """
    dropped = scores.columns["halves_dropped"]
    total = int(dropped.sum()) + int(scores.columns["halves_used"].sum())
    count = int(dropped.sum())
    if not count:
        return ""
    causes = count_causes(zip(scores.columns["dropped_because"], dropped, strict=True))
    named = ", ".join(f"{name} {number}" for name, number in causes.most_common())
    share = f"{count} of {total} ({100 * count / total:.1f} %: {named})"
    if scores.settings.estimator == "corrected-mean":
        return f"halvings that alone could not be corrected: {share}; corrected-mean corrects means instead"
    return f"halvings dropped: {share}"


def count_causes(explanations: Iterable[tuple[object, object]]) -> Counter[str]:
    """Add up causes over rows.

    Parameters
    ----------
    explanations
        (``dropped_because``, ``halves_dropped``) of every row.

    Returns
    -------
    Counter
        Cause -> halvings. A text that does not name counts stands for all halvings of its row.
    """
    causes: Counter[str] = Counter()
    for because, dropped in explanations:
        number = int(str(dropped))
        if not number:
            continue
        parts = [_CAUSE.fullmatch(part) for part in _END.sub("", str(because)).split(", ")]
        for part in parts:
            if part is None:
                causes[str(because) or "not recorded"] += number
                break
            causes[part["name"]] += number if part["count"] == "all" else int(part["count"])
    return causes
