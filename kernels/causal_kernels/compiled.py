"""How kernels are compiled, which of them still have to be, and how far compiling is.

`kernel` is the one decorator. It leaves out what costs time to compile and is of no use here: a
wrapper for callers in C, and checks for division by zero (kernels look at what they divide by).
Kernels are compiled when they are first called; `pending` tells before whether that will happen,
and `compiling` counts while it does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from numba import njit
from numba.core import event

from causal_kernels.cache import cached_names

__all__ = ["compiling", "kernel", "pending"]

_OPTIONS = {"nogil": True, "no_cfunc_wrapper": True, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """Let numba compile a function on its first call, and keep the machine code if it can."""
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # there is no folder that can be written to
        return njit(**_OPTIONS)(function)


def _is_kernel(value: Any) -> bool:
    return hasattr(value, "py_func") and hasattr(value, "signatures")


def with_called(functions: Iterable[Any]) -> list[Any]:
    """Return the kernels among the functions and all kernels that these call."""
    found = dict.fromkeys(f for f in functions if _is_kernel(f))
    ahead = list(found)
    while ahead:
        function = ahead.pop()
        module = function.py_func.__globals__
        for name in function.py_func.__code__.co_names:
            if _is_kernel(module.get(name)) and module[name] not in found:
                found[module[name]] = None
                ahead.append(module[name])
    return list(found)


def pending(functions: Iterable[Any]) -> list[Any]:
    """Return those of the functions, and of the kernels they call, that have to be compiled.

    Left out are those that ran in this process and those whose machine code is on disk; without the
    JIT there are none.
    """
    loaded = [f for f in with_called(functions) if not f.signatures]
    there = cached_names() if loaded else set()
    return [f for f in loaded if _name(f) not in there]


def _name(function: Any) -> str:
    return f"{function.py_func.__module__.rpartition('.')[2]}.{function.py_func.__name__}"


@contextlib.contextmanager
def compiling(
    waiting: Iterable[Any], progress: Callable[[int, int], None] | None
) -> Iterator[None]:
    """Call ``progress(compiled, of how many)`` each time that one of ``waiting`` was compiled."""
    left = {id(f.py_func) for f in waiting}
    total = len(left)

    class Count(event.Listener):  # type: ignore[misc]
        def on_start(self, happens: Any) -> None:
            pass

        def on_end(self, happens: Any) -> None:
            done = id(happens.data["dispatcher"].py_func)
            if done in left and progress is not None:
                left.discard(done)
                progress(total - len(left), total)

    with event.install_listener("numba:compile", Count()):
        yield
