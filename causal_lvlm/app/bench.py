"""What all open pages share: models, the line of jobs, sessions, and the folder that is removed."""

from __future__ import annotations

import shutil
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from causal_lvlm.app.models import ModelShelf
from causal_lvlm.app.records import Limits
from causal_lvlm.app.room import Room, own_folder
from causal_lvlm.app.session import Session
from causal_lvlm.app.turns import BusyError, Turns

if TYPE_CHECKING:
    from causal_lvlm.lvlm import LVLM

__all__ = ["Workbench"]


class Workbench:
    """What all pages share.

    Parameters
    ----------
    models : ModelShelf, optional
    limits : Limits, optional
    results : path, optional
        Folder whose saved explanations links may open.
    folder : path, optional
        Where temporary files go; a new folder, removed by `close`, if left out.
    """

    def __init__(
        self,
        models: ModelShelf | None = None,
        limits: Limits | None = None,
        results: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self.models = models or ModelShelf()
        self.limits = limits or Limits()
        self.results = results
        self.folder, self._held = (folder, None) if folder is not None else own_folder()
        self.room = Room(self.folder / "gradio", self.limits.disk)
        self.turns = Turns(self.limits.waiting)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def session(self, key: str) -> Session:
        """Return the session of a page, made when it is first asked for.

        Raises
        ------
        BusyError
            If as many pages are open as the server takes.
        """
        gone: list[Session] = []
        try:
            with self._lock:
                found = self._sessions.get(key)
                if found is None:
                    gone = self._idle()
                    if len(self._sessions) >= self.limits.sessions:
                        raise BusyError(
                            f"{len(self._sessions)} pages are open, which is as many as this "
                            "server takes; close one, or try again later"
                        )
                    found = self._sessions[key] = Session(self)
                found.used = time.monotonic()
                return found
        finally:
            for old in gone:
                old.close()

    def _idle(self) -> list[Session]:
        """Take out sessions that nobody has used for long."""
        limit = time.monotonic() - self.limits.idle
        old = [k for k, s in self._sessions.items() if s.used < limit]
        return [self._sessions.pop(k) for k in old]

    def close_session(self, key: str) -> None:
        """Close a page, if it is open."""
        with self._lock:
            found = self._sessions.pop(key, None)
        if found is not None:
            found.close()

    def check_pixels(self, more: int) -> None:
        """Refuse a picture for which there is no memory.

        Raises
        ------
        BusyError
            If the pages keep as many pixels as the server takes.
        """
        with self._lock:
            kept = sum(session.pixels() for session in self._sessions.values())
        if kept + more > self.limits.pixels:
            raise BusyError(
                f"the pages that are open keep pictures of {kept / 1e6:.0f} million pixels of the "
                f"{self.limits.pixels / 1e6:.0f} million that this server takes; give a smaller "
                "picture, or try again later"
            )

    def in_use(self, without: object = None) -> list[LVLM]:
        """Return the models that pages work with."""
        with self._lock:
            pages = [s for s in self._sessions.values() if s is not without]
        return [s.lvlm for s in pages if s.lvlm is not None]

    def close(self) -> None:
        """Close all pages and remove the folder."""
        with self._lock:
            pages = list(self._sessions.values())
            self._sessions.clear()
        for page in pages:
            page.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._held is not None:
            self._held.close()

    def __enter__(self) -> Workbench:
        """Start."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close, also after an error."""
        self.close()
