"""Starts the app: settings of Gradio that keep it private, and the folder that is removed.

1. Gradio reads its settings when it is imported, so they are made before: no analytics, no version
   check, uploads in our temporary folder.
2. It listens on 127.0.0.1 unless told otherwise, makes no public link unless asked, and may ask for
   a password; where others could come in, it must, unless it is told not to.
3. What stands between the network and Gradio is in `causal_lvlm.app.guard`.
4. At the end every page is closed and the folder removed.
"""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causal_lvlm.app.bench import Workbench
from causal_lvlm.app.guard import AppError, Attempts, Guard, Hosts, is_loopback
from causal_lvlm.app.models import EMBEDDED, ModelShelf
from causal_lvlm.app.records import Limits
from causal_lvlm.app.uploads import MAX_JSON_BYTES
from causal_lvlm.errors import OutputError

__all__ = ["AppError", "Running", "serving"]

_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_ALLOWED_PATHS": "",  # no files but those that are handed out
    "GRADIO_NUM_WORKERS": "0",  # no further ports, which nobody guards
}


@dataclass(frozen=True)
class Running:
    """A running app.

    Attributes
    ----------
    url : str
        Where it answers on this machine.
    share_url : str or None
        The public link, where one was asked for.
    bench : Workbench
    """

    url: str
    share_url: str | None
    bench: Workbench


@contextmanager
def serving(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    password: str | None = None,
    results: str | os.PathLike[str] | None = None,
    models: Sequence[str] = (),
    any_model: bool | None = None,
    allow_hosts: Sequence[str] = (),
    no_password: bool = False,
    limits: Limits | None = None,
) -> Iterator[Running]:
    """Serve the app inside the block.

    Parameters
    ----------
    host : str
        Address to listen on; others than 127.0.0.1 let other machines in.
    port : int, optional
        The first free one from 7860 on if left out.
    share : bool
        Ask Gradio for a public link.
    password : str, optional
        What everybody must enter, with any name.
    results : path, optional
        Folder whose saved explanations links (``?open=NAME.json``) may open.
    models : sequence of str
        Names that the page may load beside the embedded model.
    any_model : bool, optional
        Let the page load any name or folder. By default only where nobody but this machine can ask.
    allow_hosts : sequence of str
        Names under which it answers besides its own address and those of the loopback.
    no_password : bool
        Let everybody in who can reach it, where others than this machine can.
    limits : Limits, optional

    Raises
    ------
    AppError
        If Gradio is not installed, the port is taken, or others could come in without a password.
    OutputError
        If there is no such folder of results.
    """
    folder = None if results is None else Path(results)
    if folder is not None and not folder.is_dir():
        raise OutputError(f"there is no folder {str(folder)!r}; give one with saved explanations")
    private = not share and all(map(is_loopback, (host, *allow_hosts)))
    if not (private or password or no_password):
        raise AppError(
            f"everybody who can reach {'the public link' if share else host} could use the app and "
            "read what others ask; set a password (environment variable CAUSAL_LVLM_PASSWORD), or "
            "say --no-password to let everybody in"
        )
    hosts = Hosts(host, allow_hosts, shared=share)
    free = private if any_model is None else any_model
    shelf = ModelShelf(allowed=None if free else models)
    with Workbench(shelf, limits, folder) as bench, _environment(bench.folder):
        page, launch = _page(bench, hosts)
        shelf.get(EMBEDDED)  # so that the first question need not wait for it,
        threading.Thread(target=_warm_up, name="app-warm-up", daemon=True).start()  # nor for this
        try:
            _, url, share_url = launch(host, port, share, password)
        except OSError as error:
            raise AppError(f"the app cannot listen on {host}: {error}") from error
        try:
            yield Running(url, share_url or None, bench)
        finally:
            page.close(verbose=False)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    wanted = {
        **_SETTINGS,
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),  # made when torch is imported
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _warm_up() -> None:
    """Compile what learns graphs, or read it from the cache of an earlier start."""
    import numpy as np

    from causal_lvlm.structure import learn_structure, pds_tree
    from causal_lvlm.structure.compiling import compile_kernels

    compile_kernels(tree=True)  # a question that comes meanwhile is told about it
    learned = learn_structure(np.where(np.eye(6), 1.0, 0.5), n_samples=100, algorithm="ordered_icd")
    pds_tree(learned.pag, root=5, max_depth=2)


def _page(bench: Workbench, hosts: Hosts) -> tuple[Any, Callable[..., Any]]:
    try:
        from starlette.middleware import Middleware

        from causal_lvlm.app.page import build_page, style, theme
    except ImportError as error:
        raise AppError(
            f"the app needs an optional part ({error}); install it with "
            '`pip install "causal-lvlm[app]"`'
        ) from error
    page = build_page(bench)
    guard = Middleware(
        Guard, hosts=hosts, attempts=Attempts(), room=bench.room, upload=MAX_JSON_BYTES
    )
    page.queue(default_concurrency_limit=None, max_size=bench.limits.waiting * 2)

    def launch(host: str, port: int | None, share: bool, password: str | None) -> Any:
        def known(name: str, given: str) -> bool:
            # An environment variable may hold any bytes.
            ours, theirs = (t.encode("utf-8", "surrogateescape") for t in (str(password), given))
            return hmac.compare_digest(ours, theirs)

        return page.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=known if password else None,
            auth_message="Any name will do; the password is the one you were given.",
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,  # ours are shown, see `causal_lvlm.app.handlers.told`
            max_threads=2 * bench.limits.sessions,
            max_file_size=MAX_JSON_BYTES,
            app_kwargs={"middleware": [guard]},
            state_session_capacity=bench.limits.sessions,
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            theme=theme(),
            css=style(),
        )

    return page, launch
