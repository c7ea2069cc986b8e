"""How kernels are compiled: `kernel` is the one decorator.

It leaves out what costs time to compile and is of no use here: a wrapper for callers in C (a tenth
of the time), and checks for division by zero (kernels look at what they divide by).
"""

from __future__ import annotations

from numba import njit

__all__ = ["kernel"]

kernel = njit(cache=True, nogil=True, no_cfunc_wrapper=True, error_model="numpy")
