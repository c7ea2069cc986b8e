"""Who may ask the app: hosts, origins, passwords and the size of what is sent. Plain ASGI.

1. Host: a page of the internet whose name is made to point to this machine (DNS rebinding) is asked
   for by that name. So only names that this server is known by are answered.
2. Origin: other pages may send requests here with the reader's cookies. What does not come from our
   own page is refused, but for links to the page itself. Programs say nothing about an origin.
3. Passwords: wrong ones are answered later and later, then not looked at for a while; each address
   is counted, and all together.
4. Bodies: bounded; uploads are asked for room on the disk before they are read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from causal_lvlm.app.room import Room
from causal_lvlm.app.turns import BusyError
from causal_lvlm.errors import CausalLVLMError, quoted

__all__ = ["AppError", "Attempts", "Guard", "Hosts", "is_loopback"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_BODY = 8_000_000  # of everything but uploads
_UPLOAD = "/upload"
_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^\[\]:/@?#\\\s]+)(?::([0-9]{1,5}))?")
_PORTS = {"http": "80", "https": "443"}


class AppError(CausalLVLMError):
    """The app cannot be started."""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _parts(text: str, scheme: str) -> tuple[str, str] | None:
    """Return name and port of ``name:port``, None where it is no such text."""
    match = _HOST.fullmatch(text.lower())
    if match is None:
        return None
    return match[1].strip("[]").rstrip("."), match[2] or _PORTS[scheme]


class Hosts:
    """The names under which the app answers.

    Parameters
    ----------
    listening : str
        Address it listens on. If that is every address of this machine, it also answers under each
        of them in figures and under the machine's own name: no rebinding can use those.
    more : iterable of str
        Names that were given as well.
    shared : bool
        Answer under Gradio's public links.
    """

    def __init__(self, listening: str, more: Iterable[str] = (), *, shared: bool = False) -> None:
        self.names = {*LOOPBACK}
        for name in (listening, *more):
            plain = name.strip("[]")
            parts = _parts(plain if _address(plain) is None else f"[{plain}]", "http")
            if parts is None or (_address(plain) is None and ":" in name):
                raise AppError(
                    f"{quoted(name)} is no name of a host; give it without http and port"
                )
            self.names.add(parts[0])
        address = _address(listening.strip("[]"))
        self.any_address = address is not None and address.is_unspecified
        if self.any_address:
            self.names.add(socket.gethostname().lower())
        self.shared = shared

    def refusal(self, headers: Iterable[tuple[bytes, bytes]], method: str, path: str) -> str:
        """Return why a request is refused; empty if it is not."""
        found: dict[str, list[str]] = {}
        for name, value in headers:
            found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = found.get("host", []), found.get("origin", [])
        host = _parts(hosts[0], "http") if len(hosts) == 1 else None
        if host is None or not self._known(host[0]):
            said = quoted(hosts[0] if hosts else "")
            return (
                f"this server does not answer under the name {said}; --allow-host NAME allows one"
            )
        for origin in origins:
            scheme, _, rest = origin.partition("://")
            same = scheme in _PORTS and len(origins) == 1
            if not same or _parts(rest, scheme) != _parts(hosts[0], scheme):
                said = quoted(origin)
                return f"this server takes nothing from pages of {said}; open its own page"
        if set(found.get("sec-fetch-site", [])) - {"same-origin", "none"}:
            opened = found.get("sec-fetch-mode") == ["navigate"]
            shown = found.get("sec-fetch-dest") == ["document"]
            if not (opened and shown and method == "GET" and path == "/"):
                return "this server is asked by its own page and by links to it, by no other page"
        return ""

    def _known(self, name: str) -> bool:
        if name in self.names or (self.shared and name.endswith(".gradio.live")):
            return True
        return self.any_address and _address(name) is not None


class Attempts:
    """Counts wrong passwords.

    Parameters
    ----------
    free : int
        Wrong passwords of one address that are only answered late; after each further one the
        address has to wait, twice as long every time.
    total : int
        Wrong passwords within `within` seconds, from all addresses, after which everybody waits.
    within : float
        Seconds; an address that tried nothing for so long is forgotten.
    """

    def __init__(self, free: int = 5, total: int = 300, within: float = 3600.0) -> None:
        self.free, self.total, self.within = free, total, within
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count, last time
        self._all: deque[float] = deque()

    def wait(self, address: str) -> float:
        """Return for how many seconds no password of an address is looked at."""
        now = time.monotonic()
        while self._all and self._all[0] < now - self.within:
            self._all.popleft()
        if len(self._all) >= self.total:
            return self._all[0] + self.within - now
        count, last = self._wrong.get(address, (0, now))
        if count and last < now - self.within:
            del self._wrong[address]
            return 0.0
        pause = 0.0 if count < self.free else min(2.0 ** (count - self.free + 3), self.within)
        return max(0.0, last + pause - now)

    def begin(self, address: str) -> float:
        """Count an attempt as wrong until `right`; return how late a wrong one is answered.

        It is counted before it is looked at, so that many at once are many.
        """
        now = time.monotonic()
        count = self._wrong.pop(address, (0, 0.0))[0] + 1
        self._wrong[address] = count, now
        self._all.append(now)
        if len(self._wrong) > 10_000:
            self._wrong.popitem(last=False)
        return float(min(0.25 * 2.0 ** (count - 1), 4.0))

    def right(self, address: str) -> None:
        """Forget the wrong passwords of an address whose last one was right."""
        self._wrong.pop(address, None)
        if self._all:
            self._all.pop()


class Guard:
    """ASGI middleware in front of the app.

    Parameters
    ----------
    app : ASGI application
    hosts : Hosts
    attempts : Attempts
    room : Room
        Where uploads go.
    upload : int
        Bytes of one upload.
    """

    def __init__(
        self, app: Any, *, hosts: Hosts, attempts: Attempts, room: Room, upload: int
    ) -> None:
        self.app, self.hosts, self.attempts, self.room = app, hosts, attempts, room
        self.upload = upload + 100_000  # and what stands around it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the app answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        path, method = str(scope["path"]), str(scope.get("method", "GET"))
        refusal = self.hosts.refusal(scope["headers"], method, path)
        if scope["type"] == "websocket":
            if refusal:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
        elif refusal:
            await _say(send, 403, refusal)
        elif method == "POST" and path.rstrip("/").endswith("/login"):
            await self._login(scope, receive, send)
        else:
            await self._bounded(scope, receive, send, path)

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = str((scope.get("client") or ("?",))[0])
        wait = self.attempts.wait(address)
        if wait > 0:
            seconds = int(wait) + 1
            text = f"too many wrong passwords; try again in {seconds} seconds"
            await _say(send, 429, text, ("retry-after", str(seconds)))
            return
        pause = self.attempts.begin(address)

        async def answered(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                if message["status"] < 400:
                    self.attempts.right(address)
                else:
                    await asyncio.sleep(pause)
            await send(message)

        await self._bounded(scope, receive, answered, "/login")

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Read at most so much of a body; what says its length is not read at all."""
        uploaded = path.rstrip("/").endswith(_UPLOAD)
        most = self.upload if uploaded else MAX_BODY
        length = dict(scope["headers"]).get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        too_large = f"what was sent is larger than the {most / 1e6:.0f} MB that are taken"
        if size > most:
            await _say(send, 413, too_large)
            return
        if uploaded:
            try:
                await asyncio.get_running_loop().run_in_executor(None, self.room.make, size or most)
            except BusyError as error:
                await _say(send, 413, str(error))
                return
        begun, taken = False, 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise _TooLargeError(too_large)
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _TooLargeError as error:
            if not begun:
                await _say(send, 413, str(error))


class _TooLargeError(Exception):
    """A body without a length, or with a false one, went on for too long."""


async def _say(send: Send, status: int, text: str, *headers: tuple[str, str]) -> None:
    plain = (("content-type", "text/plain; charset=utf-8"), ("connection", "close"))
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(n.encode(), v.encode()) for n, v in (*plain, *headers)],
        }
    )
    await send({"type": "http.response.body", "body": text.encode("utf-8", "replace")})
