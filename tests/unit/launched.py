"""Stands for ``mvkit`` in processes that a launcher starts: joins, talks, and ends as its words say."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
from torch import distributed

from mvkit.cli import main as cli
from mvkit.distributed import all_gather, process_group, rank
from mvkit.errors import DataError


def work(words: list[str], **settings: object) -> int:
    del settings
    with process_group(torch.device("cpu")):
        ranks = all_gather(torch.tensor([rank()])).tolist()
        sys.stdout.write(f"ranks {ranks} words {words}\n")
        sys.stderr.write("progress\n")
        sys.stdout.flush()
        if words[0] == "last-fails":
            # Threads of the group are then at work while the program ends.
            for _ in range(300):
                distributed.all_reduce(torch.ones(100_000), async_op=True)
        if words[0] == "all-fail" or (words[0] == "last-fails" and rank() == max(ranks)):
            raise DataError(f"broken image, said by {rank() if words[0] == 'last-fails' else 'one'}")
        if words[0] == "bug" and rank() == max(ranks):
            raise KeyError("nobody thought of this")
        if words[0] == "last-dies" and rank() == max(ranks):
            os.kill(os.getpid(), signal.SIGKILL)
        if words[0] == "wait":
            time.sleep(60)
        all_gather(torch.ones(1))
    sys.stdout.write("after\n")
    return 0


def main() -> None:
    cli.app = work  # type: ignore[assignment]
    cli.main()


if __name__ == "__main__":
    main()
