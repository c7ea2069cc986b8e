"""Operations whose backward pass follows the rules of relevance propagation; see `lrp` for them.

The model is not touched: a `TorchFunctionMode`, which lives in the calling thread for the length of
one forward pass, swaps the operations; composite activations (GELU written out) are caught by hooks
on this model's own modules, for this thread and this pass only. Values stay those of the model.
Operations the table does not name (sigmoid gates' own slope, recurrences) keep their ordinary
gradient, so conservation holds only as far as the rules reach; `Relevance.absorbed` says how far.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from causal_lvlm.errors import quoted
from causal_lvlm.results import Rules

__all__ = ["propagation"]

_SCALED = "_causal_lvlm_activation"  # marks an activation's output, so that a gate is known as one


@contextmanager
def propagation(module: torch.nn.Module, rules: Rules) -> Iterator[None]:
    """Let what this thread computes in the block be differentiated by `rules`.

    Parameters
    ----------
    module : torch.nn.Module
        Where activation modules are looked for (the language model). Other operations are caught
        wherever they happen in the block.
    rules : Rules

    Raises
    ------
    ValueError
        If a rule is unknown.
    """
    if rules.attention not in ("uniform", "frozen", "plain"):
        raise ValueError(
            f"attention must be 'uniform', 'frozen' or 'plain', got {quoted(rules.attention)}"
        )
    if rules.gate not in ("half", "constant"):
        raise ValueError(f"gate must be 'half' or 'constant', got {quoted(rules.gate)}")
    mode = _Mode(rules)
    handles: list[Any] = []
    try:
        for part in _activations(module):
            handles.append(part.register_forward_pre_hook(mode.before_activation))
            handles.append(part.register_forward_hook(mode.after_activation))
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _activations(module: torch.nn.Module) -> Iterable[torch.nn.Module]:
    """Yield each activation module once: torch's own, and those of transformers."""
    for part in module.modules():
        home = type(part).__module__
        if home in ("torch.nn.modules.activation", "transformers.activations") and not isinstance(
            part, (torch.nn.MultiheadAttention, torch.nn.Softmax, torch.nn.LogSoftmax)
        ):
            yield part


# -- changed backward passes ---------------------------------------------------------------------


def _scaled(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the same values; the gradient through this use of them is multiplied by `factor`."""
    if not tensor.requires_grad:
        return tensor
    alias = tensor.view_as(tensor)
    alias.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    return alias


def _proportional(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `value`, whose backward factor with respect to `x` is value / x (0 where x is 0)."""
    x = x.to(value.dtype)
    held = value.detach()
    ratio = torch.where(x == 0, 0.0, held / torch.where(x == 0, 1.0, x).detach())
    result = held + ratio.detach() * (x - x.detach())
    setattr(result, _SCALED, True)
    return result


def _is_state(value: Any) -> bool:
    """Whether a value is a tensor of activations: not a parameter, not a vector, differentiated."""
    return (
        isinstance(value, torch.Tensor)
        and value.requires_grad
        and value.dim() >= 2
        and not isinstance(value, torch.nn.Parameter)
    )


class _Mode(TorchFunctionMode):
    """Swaps operations on the way forward; see the module's text."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self._rules = rules
        self._thread = threading.get_ident()
        self._inside = 0  # depth of activation modules
        self._swaps: Mapping[Any, Callable[..., Any]] = {
            functional.layer_norm: self._layer_norm,
            functional.rms_norm: self._rms_norm,
            functional.scaled_dot_product_attention: self._attention,
            functional.softmax: self._softmax,
            torch.softmax: self._softmax,
            torch.Tensor.softmax: self._softmax,
            **dict.fromkeys((torch.Tensor.mul, torch.mul), self._mul),
            **dict.fromkeys((torch.Tensor.matmul, torch.matmul), self._matmul),
            **dict.fromkeys(
                (torch.rsqrt, torch.sqrt, torch.Tensor.rsqrt, torch.Tensor.sqrt), self._root
            ),
            **dict.fromkeys((torch.pow, torch.Tensor.pow), self._power),
            **dict.fromkeys(
                (functional.relu, functional.gelu, functional.silu, functional.tanh, torch.tanh,
                 torch.Tensor.tanh, torch.relu, torch.Tensor.relu), self._activation,
            ),
        }  # fmt: skip

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        swap = self._swaps.get(func)
        return func(*args, **kwargs) if swap is None else swap(func, *args, **kwargs)

    # -- element-wise ---------------------------------------------------------------------------

    def before_activation(self, _module: Any, _args: Any) -> None:
        """Leave a composite activation alone; `after_activation` treats it as one operation."""
        if threading.get_ident() == self._thread:
            self._inside += 1

    def after_activation(self, _module: Any, args: Any, output: Any) -> Any:
        """Give an activation module's output its backward factor."""
        if threading.get_ident() != self._thread:
            return None
        self._inside -= 1
        if not args or not isinstance(output, torch.Tensor) or not args[0].requires_grad:
            return None
        return _proportional(output, args[0])

    def _activation(self, func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs.pop("inplace", None)  # x is needed for the backward factor
        value: torch.Tensor = func(x, *args, **kwargs)
        return _proportional(value, x) if x.requires_grad else value

    def _mul(self, func: Any, a: Any, b: Any, **kwargs: Any) -> torch.Tensor:
        if not (_is_state(a) and _is_state(b)):
            return func(a, b, **kwargs)  # type: ignore[no-any-return]
        if self._rules.gate == "constant" and getattr(a, _SCALED, False):
            a = a.detach()
        elif self._rules.gate == "constant" and getattr(b, _SCALED, False):
            b = b.detach()
        else:
            return _scaled(func(a, b, **kwargs), 0.5)
        return func(a, b, **kwargs)  # type: ignore[no-any-return]

    # -- norms ----------------------------------------------------------------------------------

    def _root(self, func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        value: torch.Tensor = func(*args, **kwargs)
        return value.detach()

    def _power(self, func: Any, x: Any, exponent: Any, **kwargs: Any) -> torch.Tensor:
        value: torch.Tensor = func(x, exponent, **kwargs)
        return value.detach() if exponent in (-0.5, 0.5) else value

    def _layer_norm(
        self, func: Any, x: torch.Tensor, shape: Any, weight: Any = None, bias: Any = None,
        eps: float = 1e-5,
    ) -> torch.Tensor:  # fmt: skip
        axes = tuple(range(-len(shape), 0))
        value = func(x, shape, weight, bias, eps).detach()
        centred = x - x.mean(dim=axes, keepdim=True)
        scale = (centred.detach().square().mean(dim=axes, keepdim=True) + eps).rsqrt()
        return self._normed(value, centred, scale, weight)

    def _rms_norm(
        self, func: Any, x: torch.Tensor, shape: Any, weight: Any = None, eps: float | None = None
    ) -> torch.Tensor:
        axes = tuple(range(-len(shape), 0))
        value = func(x, shape, weight, eps).detach()
        small = torch.finfo(x.dtype).eps if eps is None else eps
        scale = (x.detach().square().mean(dim=axes, keepdim=True) + small).rsqrt()
        return self._normed(value, x, scale, weight)

    @staticmethod
    def _normed(
        value: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, weight: Any
    ) -> torch.Tensor:
        """Return `value` with the backward of ``x * scale * weight``, scale constant."""
        slope = scale if weight is None else scale * weight.detach()
        return value + slope * (x - x.detach())

    # -- attention ------------------------------------------------------------------------------

    def _attention(
        self, func: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        *args: Any, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        if self._rules.attention == "frozen":
            query, key = query.detach(), key.detach()
        elif self._rules.attention == "uniform":
            query, key, value = _scaled(query, 0.25), _scaled(key, 0.25), _scaled(value, 0.5)
        return func(query, key, value, *args, **kwargs)  # type: ignore[no-any-return]

    def _softmax(self, func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        # Eager attention (soft-capped scores, learned sinks): the same rules, product by product.
        value: torch.Tensor = func(*args, **kwargs)
        return value.detach() if self._rules.attention == "frozen" else value

    def _matmul(self, func: Any, a: Any, b: Any, **kwargs: Any) -> torch.Tensor:
        value: torch.Tensor = func(a, b, **kwargs)
        both = _is_state(a) and _is_state(b) and a.dim() == b.dim() == 4
        return _scaled(value, 0.5) if both and self._rules.attention == "uniform" else value
