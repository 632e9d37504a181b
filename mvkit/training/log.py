"""What a run says of itself: ``log.jsonl``, a JSON object a line, and TensorBoard where wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mvkit.atomic import write_text
from mvkit.errors import UsageError
from mvkit.jsonable import plain

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: Kinds of records that belong to a finished epoch rather than to a step.
_OF_EPOCHS = ("evaluation", "epoch")


class RunLog:
    """Records of a run, written as they come.

    Every record has ``kind`` ("start", "resume", "step", "evaluation",
    "epoch", "interrupted", "end") and ``step``, the number of finished steps. Values
    that are not finite are null, with the reason in ``error``.

    Parameters
    ----------
    path
        ``log.jsonl``; continued if it exists.
    tensorboard
        Folder of TensorBoard's files, or None.

    Raises
    ------
    UsageError
        TensorBoard is wanted and not installed.
    """

    def __init__(self, path: Path, *, tensorboard: Path | None = None) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._board = _open_board(tensorboard) if tensorboard is not None else None

    def rewind(self, *, step: int, epochs: int) -> None:
        """Forget what came after a checkpoint, and a line that a killed process left unfinished.

        Parameters
        ----------
        step, epochs
            Steps and epochs that the checkpoint has finished.
        """
        if not self.path.exists():
            return
        kept = [
            line for line in self.path.read_text(encoding="utf-8").splitlines() if _keeps(line, step, epochs)
        ]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, kind: str, *, step: int, **values: object) -> None:
        """Append a record."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        record = plain({"kind": kind, "step": step, **values})
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            _show(self._board, kind, step, record)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._board is not None:
            self._board.close()


def _keeps(line: str, step: int, epochs: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False
    if not isinstance(record, Mapping):
        return False
    if record.get("kind") in _OF_EPOCHS:
        return int(record.get("epoch", 0)) <= epochs
    return record.get("kind") != "end" and int(record.get("step", 0)) <= step


def _open_board(folder: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "TensorBoard is not installed\nrun: pip install tensorboard, or leave out --tensorboard"
        ) from error
    return SummaryWriter(str(folder))


def _show(board: SummaryWriter, kind: str, step: int, record: Mapping[str, object]) -> None:
    for name, value in record.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "epoch"):
            board.add_scalar(f"{kind}/{name}", value, step)
