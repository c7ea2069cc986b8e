"""How much memory something takes, and what to do when there is not enough.

Estimates are of the large parts only: weights when a model is loaded; keys, values, activations,
masks and logits when masked rows are evaluated. They choose a batch; running out is still possible,
recognised by `is_out_of_memory`, and answered with a smaller one.
"""

from __future__ import annotations

import gc
import os
import re
import threading
from pathlib import Path
from typing import ClassVar

import torch

from causal_lvlm.errors import OptionError, quoted

__all__ = [
    "PeakMemory",
    "available_memory",
    "gigabytes",
    "is_out_of_memory",
    "parse_memory",
    "release",
]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def parse_memory(value: int | str | None) -> int | None:
    """Return bytes from a number of bytes or a text such as ``"2GB"`` or ``"512MiB"``.

    Raises
    ------
    ValueError
        If it is neither, or not positive.
    """
    if value is None:
        return None
    n_bytes = 0
    if isinstance(value, int) and not isinstance(value, bool):
        n_bytes = value
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        number, unit, binary = found.groups()
        n_bytes = int(float(number) * (_BINARY if binary and unit else _UNITS)[unit.lower()])
    if n_bytes < 1:
        raise OptionError(
            f"max_memory must be a number of bytes or a text such as '2GB' or '512MiB', got "
            f"{quoted(value)}"
        )
    return n_bytes


def gigabytes(n_bytes: float) -> str:
    """Return bytes as text, in a unit that suits them."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def release(device: torch.device) -> None:
    """Give back what a failed call left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def available_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


class PeakMemory:
    """Context manager: the most memory that a block took above what was in use at its start.

    On a GPU the allocator's own peak; on Linux the resident set's high-water mark (``VmHWM``),
    which is cleared first. It counts the whole process, other threads too, and memory freed earlier
    but kept by the allocator hides what reuses it: read it as a lower bound. Blocks may nest.

    Parameters
    ----------
    device : torch.device, optional
        The model's; the processor if left out.

    Attributes
    ----------
    bytes : int or None
        Known after the block; None where the system does not say.
    """

    _active: ClassVar[list[PeakMemory]] = []
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, device: torch.device | None = None) -> None:
        self.bytes: int | None = None
        self._device = torch.device("cpu") if device is None else torch.device(device)
        self._start: int | None = None
        self._peak = 0

    def __enter__(self) -> PeakMemory:
        """Start to measure."""
        with self._lock:
            self._note_all()  # clearing the mark must not take it from blocks around this one
            self._start = self._cleared()
            self._peak = 0
            self._active.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and say how much it was."""
        with self._lock:
            self._note_all()
            self._active.remove(self)
            known = self._start is not None and self._peak
            self.bytes = max(0, self._peak - (self._start or 0)) if known else None

    @classmethod
    def _note_all(cls) -> None:
        for block in cls._active:
            block._note()

    def _note(self) -> None:
        self._peak = max(self._peak, self._mark() or 0)

    def _cleared(self) -> int | None:
        """Clear the high-water mark; returns what is in use, None where that cannot be done."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return int(torch.cuda.memory_allocated(self._device))
        if self._device.type != "cpu":
            return None
        try:
            Path("/proc/self/clear_refs").write_text("5", "ascii")
        except OSError:
            return None
        return _status_bytes("VmRSS")

    def _mark(self) -> int | None:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return _status_bytes("VmHWM") if self._device.type == "cpu" else None


def _status_bytes(name: str) -> int | None:
    """Return one figure of this process; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        return int(facts[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
