"""What a network computes besides its weights, as one digest.

Code of installed packages counts by name and version, mvkit's own and the user's by content: an edited file
makes another network, a moved one does not. Where it cannot be told what a network does there is no digest,
and nothing is kept of it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mvkit.jsonable import digest_of
from mvkit.models.base import VisionModel
from mvkit.models.code_walk import CodeWalk, UnknownCodeError
from mvkit.models.foreign.preparing import UserPreprocessing
from mvkit.models.preprocessing import Preprocessing

log = logging.getLogger(__name__)

#: What an nn.Module keeps of its own; children, weights and hooks are looked at by themselves. Compiled code
#: computes the same.
_OWN = frozenset({*vars(nn.Module()), "_compiled_call_impl"})
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
#: How a network is called and used, not what it computes.
_NOT_COMPUTED = frozenset({"name", "layers", "weights_id", "origin", "preprocess"})
#: What objects that are no plain Python may raise when they are looked at.
_UNREADABLE = (
    UnknownCodeError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)


def code_digest(model: nn.Module) -> str | None:
    """Return the sha256 (hex) over everything that says what a network computes, besides its weights.

    That is: the classes of its modules and what their code refers to; paths, settings and plain attributes
    of its modules; hooks, and methods replaced on a module. Not: whether it is in training mode, and the
    names of models and files.

    Returns
    -------
    str or None
        None if it cannot be told; the reason is logged.
    """
    walk = CodeWalk()
    try:
        scripts: list[str] = []
        for name, module in model.named_modules(remove_duplicate=False):
            if not any(f"{name}.".startswith(script) for script in scripts):
                walk.text("module at", name)
                _add_module(walk, module, is_root=module is model)
            if isinstance(module, torch.jit.ScriptModule):
                scripts.append(f"{name}." if name else "")
        for hooks in ("_global_forward_pre_hooks", "_global_forward_hooks"):
            walk.value(getattr(torch.nn.modules.module, hooks, {}))
        return walk.digest()
    except RecursionError:
        log.info("%s: too deep to tell what it computes; nothing of it is kept", _name(model))
    except _UNREADABLE as error:
        log.info("%s: cannot tell what it computes (%s); nothing of it is kept", _name(model), error)
    return None


def preprocessing_digest(preprocess: object) -> str | None:
    """Return the sha256 (hex) over how images become a network's input; None if that cannot be told.

    mvkit's own preprocessing counts by its settings (its code is part of :func:`code_digest`), a user's
    function by its code.
    """
    if type(preprocess).__module__.startswith("mvkit.") and isinstance(preprocess, Preprocessing):
        return digest_of({"class": type(preprocess).__qualname__, "settings": _settings(preprocess)})
    walk = CodeWalk()
    try:
        if isinstance(preprocess, UserPreprocessing):
            # Not its model's name, which may be the path of a file.
            walk.value(preprocess.function)
        else:
            walk.value(preprocess)
        return walk.digest()
    except RecursionError:
        return None
    except _UNREADABLE as error:
        log.info("cannot tell what the preprocessing does (%s); nothing is kept", error)
        return None


def _settings(preprocess: Preprocessing) -> Mapping[str, Any]:
    return {name: value for name, value in preprocess.as_dict().items() if name != "of"}


def _add_module(walk: CodeWalk, module: nn.Module, *, is_root: bool) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        # Constants inside its graph do not show in the graph's text: only the whole archive has everything.
        archive: bytes = module.save_to_buffer()
        walk.text("script", hashlib.sha256(archive).hexdigest())
        return
    walk.value(type(module))
    walk.text("settings", module.extra_repr())
    left_out = _OWN | _NOT_COMPUTED if is_root and isinstance(module, VisionModel) else _OWN
    for name, value in sorted(vars(module).items()):
        if name not in left_out:
            walk.text("attribute", name)
            walk.value(value)
    for hooks in _HOOKS:
        walk.text(hooks)
        walk.value(list(vars(module)[hooks].values()))


def _name(model: nn.Module) -> str:
    return str(getattr(model, "name", type(model).__name__))
