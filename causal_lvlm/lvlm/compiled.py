"""Run a model uncompiled for a while: our attention function is switched inside its graphs.

``torch.compile(model)`` wraps a model, and the wrapped one is used. ``model.compile()`` changes it
in place: each compiled module then has a call of its own, which is taken away until the last block
ends that uses the model.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["uncompiled"]

_lock = threading.Lock()
# By id of the module: the module, its compiled call, and the number of blocks that use it.
_taken: dict[int, list[Any]] = {}


@contextmanager
def uncompiled(modules: Collection[torch.nn.Module]) -> Iterator[None]:
    """Call the plain ``forward`` of compiled modules inside the block; nests, also over threads."""
    entered: list[int] = []
    try:
        with _lock:
            compiled = [m for m in modules if vars(m).get("_compiled_call_impl") is not None]
            for module in compiled:
                _taken[id(module)] = [module, module._compiled_call_impl, 0]
                module._compiled_call_impl = None
            entered = [id(module) for module in modules if id(module) in _taken] if _taken else []
            for key in entered:
                _taken[key][2] += 1
        yield
    finally:
        with _lock:
            for key in entered:
                module, call, users = _taken[key]
                _taken[key][2] = users - 1
                if users == 1:
                    module._compiled_call_impl = call
                    del _taken[key]
