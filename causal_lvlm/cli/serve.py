"""``causal-lvlm app``: the page people explore in, on this machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from causal_lvlm.cli.support import INTERRUPTED, Debug, clear_errors, one_thread, say

__all__ = ["serve"]

PASSWORD = "CAUSAL_LVLM_PASSWORD"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub id or folder that may be loaded; repeatable. On this machine alone any may.",
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder with saved explanations: links with ?open=NAME.json open them."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860.")] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Ask Gradio for a public link to this machine.")
    ] = False,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Let everybody who can reach it load any model.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name under which it answers as well, as behind a proxy; repeatable."),
    ] = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Let everybody in who can reach it.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Serve the app: ask about pictures, choose a word, see what it depends on.

    Answers on 127.0.0.1 only, unless --host or --share say otherwise; then it asks for a password,
    which is taken from the environment variable CAUSAL_LVLM_PASSWORD. Ctrl-C, SIGTERM and SIGHUP
    end it and remove its temporary folder.
    """
    if not model:
        one_thread()
    with clear_errors(debug):
        from causal_lvlm.app.server import serving

        password = os.environ.get(PASSWORD) or None
        with serving(
            host=host, port=port, share=share, password=password, results=results,
            models=model or (), any_model=any_model or None, allow_hosts=allow_host or (),
            no_password=no_password,
        ) as running:  # fmt: skip
            typer.echo(f"open {running.url}" + (f" or {running.share_url}" * bool(share)))
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                say("causal-lvlm: the app has ended")
                raise typer.Exit(INTERRUPTED) from None
