"""The door to FFCV: loaded late, without what its import does to the rest of the process."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from contextlib import suppress
from types import ModuleType

from mvkit.errors import MissingPackageError

#: FFCV states its version in the package's metadata only.
PACKAGE = "ffcv"
INSTALL_COMMAND = "python scripts/install_ffcv.py"


def has_ffcv() -> bool:
    """Tell whether FFCV can be loaded (this loads it)."""
    try:
        load_ffcv()
    except MissingPackageError:
        return False
    return True


def load_ffcv(module: str = PACKAGE) -> ModuleType:
    """Return FFCV or one of its modules (``ffcv.reader``).

    Its import sets torch to one thread; the number from before is restored.

    Raises
    ------
    MissingPackageError
        If FFCV is not installed or cannot be loaded; says how to install it.
    """
    import torch

    n_threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            # Its dependencies warn about one another; none of it concerns the user.
            warnings.simplefilter("ignore")
            _keep_compiled_dictionaries()
            return importlib.import_module(module)
    except ImportError as error:
        reason = (
            "is not installed" if importlib.util.find_spec(PACKAGE) is None else f"does not load ({error})"
        )
        raise MissingPackageError(
            f"FFCV, which writes and reads .beton files, {reason}\n"
            f"install it with `{INSTALL_COMMAND}` in mvkit's checkout; "
            "without it `mvkit train --images DIR` reads image folders directly (same views, slower)"
        ) from error
    finally:
        torch.set_num_threads(n_threads)


def _keep_compiled_dictionaries() -> None:
    """Have numba keep what FFCV compiles when imported: a dictionary that takes 4 seconds each time."""
    from numba.typed import typeddict

    for value in vars(typeddict).values():
        if hasattr(value, "enable_caching"):
            # Neither numba's folder nor the user's cache can be written: compiled each time, as before.
            with suppress(RuntimeError):
                value.enable_caching()
