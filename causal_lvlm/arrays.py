"""Aliases of array types, and the one way arrays become read-only."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "AnyArray",
    "BoolArray",
    "Float32Array",
    "FloatArray",
    "Int16Array",
    "Int32Array",
    "IntArray",
    "UInt8Array",
    "frozen",
    "plain_array",
]

AnyArray: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float64]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Int16Array: TypeAlias = npt.NDArray[np.int16]
Int32Array: TypeAlias = npt.NDArray[np.int32]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]


def frozen(values: npt.ArrayLike, dtype: Any) -> npt.NDArray[Any]:
    """Return a read-only, C-contiguous copy of `values` with the given dtype.

    Parameters
    ----------
    values : array_like
        Any shape.
    dtype : dtype_like
        Type of the copy.

    Returns
    -------
    ndarray
        Same shape as `values`; writing to it raises ``ValueError``.
    """
    array = np.array(values, dtype=dtype, order="C", copy=True)
    array.setflags(write=False)
    return array


def plain_array(values: Any) -> Any:
    """Return tensors of torch and sparse matrices as arrays, and anything else as it is.

    Parameters
    ----------
    values : object
        Told by what it can do, so that neither torch nor scipy.sparse is imported.

    Raises
    ------
    ValueError
        If a tensor holds no values that can be read here.
    """
    if callable(getattr(values, "detach", None)):  # numpy knows no bfloat16 and no gradients
        try:
            values = values.detach().cpu().to_dense().resolve_conj()
            return (values.float() if str(values.dtype).endswith("float16") else values).numpy()
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise ValueError(f"the tensor cannot be read: {str(error).splitlines()[0]}") from error
    if hasattr(values, "nnz") and callable(getattr(values, "toarray", None)):
        return values.toarray()
    return values
