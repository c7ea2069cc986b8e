"""The models of the app: each loaded once, shared by everybody, a few at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from causal_lvlm.errors import ModelMemoryError, UnsupportedModelError

if TYPE_CHECKING:
    from causal_lvlm.lvlm import LVLM

__all__ = ["EMBEDDED", "ModelShelf"]

EMBEDDED = "embedded"
_LONGEST = 1000  # characters of a name


class ModelShelf:
    """Loads models and keeps the last few.

    Parameters
    ----------
    most : int
        Models held at once. The one unused for longest makes room, unless somebody works with it.
    allowed : iterable of str, optional
        Names that may be loaded; None allows any. The embedded model always may.
    load : callable
        Loads a model by name; ``None`` means the embedded one. `causal_lvlm.load_model` if left
        out.
    """

    def __init__(
        self,
        most: int = 2,
        allowed: Iterable[str] | None = None,
        load: Callable[[str | None], LVLM] | None = None,
    ) -> None:
        self.most = most
        self.allowed = None if allowed is None else frozenset(allowed)
        self._load = load
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # one load at a time: two would need twice the memory
        self._loaded: OrderedDict[str, LVLM] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """What is loaded now, least recently used first."""
        with self._lock:
            return tuple(self._loaded)

    def get(self, name: str, in_use: Iterable[LVLM] = ()) -> LVLM:
        """Return a model, loading it if need be.

        Parameters
        ----------
        name : str
            Hub id, local folder, or ``"embedded"`` (also for an empty name).
        in_use : iterable of LVLM
            Models that must stay.

        Raises
        ------
        UnsupportedModelError
            If the name is not allowed here, or the model cannot be loaded.
        ModelMemoryError
            If it does not fit, or every place is taken by a model in use.
        """
        wanted = (name or "").strip() or EMBEDDED
        if len(wanted) > _LONGEST:
            raise UnsupportedModelError(
                f"the name of the model has {len(wanted)} characters; give a hub id or a folder"
            )
        if self.allowed is not None and wanted != EMBEDDED and wanted not in self.allowed:
            known = ", ".join([EMBEDDED, *sorted(self.allowed)])
            raise UnsupportedModelError(f"this server does not load {wanted!r}; it offers: {known}")
        with self._loading if self._found(wanted) is None else nullcontext():
            found = self._found(wanted)  # somebody else may have loaded it meanwhile
            if found is not None:
                return found
            self._make_room({id(model) for model in in_use})
            model = self._loader()(None if wanted == EMBEDDED else wanted)
            with self._lock:
                self._loaded[wanted] = model
            return model

    def _found(self, name: str) -> LVLM | None:
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
            return self._loaded.get(name)

    def _make_room(self, held: set[int]) -> None:
        with self._lock:
            while len(self._loaded) >= self.most:
                free = [n for n, m in self._loaded.items() if id(m) not in held]
                if not free:
                    raise ModelMemoryError(
                        f"{self.most} models are loaded and in use by others "
                        f"({', '.join(self._loaded)}); use one of them, or try again later"
                    )
                del self._loaded[free[0]]

    def _loader(self) -> Callable[[str | None], LVLM]:
        if self._load is not None:
            return self._load
        import causal_lvlm

        return causal_lvlm.load_model
