"""What of a model's state would change its answers is set aside while it is used, and put back.

1. Training: dropout in any module that is in training mode, and gradient checkpointing.
2. Settings of what is returned: tuples in place of named outputs, hidden states, attentions.
3. Memory between calls. Models of the Qwen-VL kind work out positions in the first call of a
   generation and keep what calls by hand need later (``rope_deltas``) on the model itself. A user
   who stands between two calls of a generation of their own must not find ours there, and theirs,
   perhaps of a larger batch, must not meet our calls. (Generations by ``generate`` carry their
   positions with them, and all other calls of this package are given theirs, so that several may
   run at once.)
4. While tokens are generated: the settings a checkpoint brings for that (see `generation`).

The caller's own modes of torch (autocast, inference mode) end at our calls too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig

__all__ = ["kept", "own_modes", "plain_generation"]

# Attributes of modules and of their configurations, and what they are while we use the model. They
# are set in the object's own dictionary: a setter may refuse, or do more.
_OF_MODULES = {"training": False, "gradient_checkpointing": False}
_OF_CONFIGS = {"return_dict": True, "output_hidden_states": False, "_output_attentions": False}
_MEMORY = "rope_deltas"

Change = tuple[dict[str, Any], str, Any]  # of an object's dictionary: name and value wanted


class _Aside:
    """Changes of one kind to one model; the first block makes them, the last one undoes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[Change] = []

    @contextmanager
    def __call__(self, changes: Callable[[], Iterable[Change]]) -> Iterator[None]:
        """Make changes for the length of the block."""
        with self._lock:
            if not self._users:
                for holder, name, value in changes():
                    self._before.append((holder, name, holder[name]))
                    holder[name] = value
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    for holder, name, value in self._before:
                        holder[name] = value
                    self._before = []


_known: WeakKeyDictionary[torch.nn.Module, tuple[_Aside, _Aside]] = WeakKeyDictionary()
_lock = threading.Lock()


def _aside(model: torch.nn.Module) -> tuple[_Aside, _Aside]:
    """Return what sets a model's state and its generation settings aside; always the same two."""
    with _lock:
        return _known.setdefault(model, (_Aside(), _Aside()))


@contextmanager
def kept(model: torch.nn.Module, modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Set the state of a model aside inside the block; nests, also over threads.

    Parameters
    ----------
    model : Module
    modules : iterable of Module
        All of its modules.
    """
    with _aside(model)[0](lambda: list(_state(modules))):
        yield


def _state(modules: Iterable[torch.nn.Module]) -> Iterator[Change]:
    # Looked through once for each name: this is done for every call, and that is fastest.
    owned = [vars(module) for module in modules]
    found = {id(own["config"]): own["config"] for own in owned if "config" in own}
    configs = [vars(config) for config in found.values() if hasattr(config, "__dict__")]
    for holders, names in ((owned, _OF_MODULES), (configs, _OF_CONFIGS)):
        for name, wanted in names.items():
            for own in [own for own in holders if own.get(name, wanted) is not wanted]:
                yield own, name, wanted
    yield from ((own, _MEMORY, None) for own in owned if _MEMORY in own)


@contextmanager
def plain_generation(model: torch.nn.Module, modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Give every module that generates empty settings inside the block; nests as `kept` does.

    ``generate`` fills what a caller leaves open with the model's own settings, and so does the
    ``generate`` of a language model inside another model.
    """
    name = "generation_config"
    holders = [own for own in map(vars, modules) if own.get(name) is not None]
    with _aside(model)[1](lambda: [(own, name, GenerationConfig()) for own in holders]):
        yield


@contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Compute as if the caller had set no autocast and no inference mode."""
    cast = torch.is_autocast_enabled(device.type)
    plain = torch.autocast(device.type, enabled=False) if cast else nullcontext()
    with torch.inference_mode(False), plain:
        yield
