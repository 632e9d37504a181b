"""One process at a time per file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def holding(target: Path, *, remark: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the lock of ``target``; wait, and say so, while another process has it.

    The system releases the lock when its holder dies, however it dies.

    Parameters
    ----------
    target
        File that is going to be made or changed; its directory is created.
    remark
        Told once if there is a wait.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remark(f"another mvkit process is working on {target.name}: waiting for it to finish")
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()
