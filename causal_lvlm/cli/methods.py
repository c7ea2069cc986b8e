"""``causal-lvlm methods``: what `explain --method` can add."""

from __future__ import annotations

import json

import typer

from causal_lvlm.cli.support import Debug, Json, clear_errors
from causal_lvlm.storage import to_jsonable

__all__ = ["methods"]


def methods(as_json: Json = False, debug: Debug = False) -> None:
    """List the methods whose heat maps `explain --method` can add."""
    with clear_errors(debug):
        import causal_lvlm as cl

        infos = cl.list_methods()
        if as_json:
            names = ("name", "aliases", "family", "summary", "cost")
            rows = [{name: getattr(info, name) for name in names} for info in infos]
            typer.echo(json.dumps(to_jsonable(rows), ensure_ascii=False, indent=1))
            return
        width = max(len(info.name) for info in infos)
        for info in infos:
            also = f" (also: {', '.join(info.aliases)})" if info.aliases else ""
            typer.echo(f"{info.name:<{width}}  {info.summary}{also} [{info.cost}]")
