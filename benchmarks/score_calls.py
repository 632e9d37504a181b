"""How many functions and files of mvkit one ``mvkit score`` walks through, in the order of first entry.

    python benchmarks/score_calls.py

Counted in this process (fits run in one job), on the second run of the same command, so that imports and
compilation are left out. A change of file is a function that is first entered from another file than the one
before it: what a reader who follows the program has to open.
"""

from __future__ import annotations

import contextlib
import io
import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType

import mvkit
from mvkit.cli.main import run

COMMAND = "score alexnet_bn_ir --weights random --layers features.3 --dataset simulated --splits 1 --halves 2"
PACKAGE = str(Path(mvkit.__file__).parent)


def main() -> None:
    """Run the command twice and print what the second run enters."""
    entered: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            entered.setdefault((code.co_filename, code.co_qualname))

    words = [*COMMAND.split(), "--jobs", "1", "--no-cache"]
    for profile in (None, note):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            sys.setprofile(profile)
            try:
                code = run(words)
            finally:
                sys.setprofile(None)
        if code:
            sys.exit(f"mvkit {' '.join(words)}: exit code {code}")
    files = [file for file, _ in entered]
    changes = sum(before != after for before, after in pairwise(files))
    print(f"mvkit {COMMAND}")
    print(f"{len(entered)} functions in {len(set(files))} files, {changes} changes of file")


if __name__ == "__main__":
    main()
