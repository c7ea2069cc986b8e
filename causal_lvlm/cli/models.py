"""``causal-lvlm models``: which models can be explained, and how."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from causal_lvlm.cli.support import Debug, Json, clear_errors

__all__ = ["models"]


Types = Annotated[
    bool,
    typer.Option("--types", help="Every image-text type of transformers and what happens to it."),
]


def models(types: Types = False, as_json: Json = False, debug: Debug = False) -> None:
    """List the families of models that are supported: types, image tokens, masking, tested with."""
    with clear_errors(debug):
        if types:
            from causal_lvlm.lvlm.types import types_page, types_table

            table = types_table if as_json else types_page
            typer.echo(json.dumps(table(), indent=1) if as_json else table(), nl=as_json)
            return
        from causal_lvlm.lvlm.families import family_table

        rows = family_table()
        if as_json:
            typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
            return
        for row in rows:
            tested = f"{row['status']} with transformers {row['tested']}"
            if row["oldest"] != row["tested"]:
                tested += f" and {row['oldest']}"
            typer.echo(f"{row['family']} ({', '.join(row['types'])}): {tested}")
            typer.echo(f"  image tokens  {row['mapping']}")
            typer.echo(f"  masking       {row['masking']}")
            typer.echo(f"  vision tower  {row['tower']}")
            typer.echo(f"  tests use     {row['processor']}")
        typer.echo(
            "Other decoder-only image-text types: a guessed grid that painting the model confirms, "
            "or no grid (experimental); or refused. All of them: causal-lvlm models --types. "
            "Encoder-decoder models and videos are not supported."
        )
