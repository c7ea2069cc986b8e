"""``causal-lvlm learn``: a PAG from a correlation or attention matrix in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from causal_lvlm.cli.matrix import read_matrix
from causal_lvlm.cli.support import Debug, Json, clear_errors, given
from causal_lvlm.storage import output_folder

__all__ = ["learn"]


def learn(
    matrix: Annotated[Path, typer.Argument(help="A .npy or .npz file with one matrix.")],
    key: Annotated[str | None, typer.Option(help="Name of the matrix in a .npz file.")] = None,
    attention: Annotated[
        bool,
        typer.Option("--attention", help="The matrix is attention A (rows are queries): use A·Aᵀ."),
    ] = False,
    head: Annotated[int | None, typer.Option(help="Head, if attention is (heads, T, T).")] = None,
    n_samples: Annotated[int | None, typer.Option(help="Sample size of the tests.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Significance level; default 1e-5.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Smallest |partial correlation| that counts, instead of --n-samples."),
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="ordered_icd (default: rows in causal order) or icd.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for pag.json, .dot, .graphml.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn a partial ancestral graph (PAG) from a correlation or attention matrix.

    Example: causal-lvlm learn attention.npy --attention --head 3 --n-samples 128 --out graph
    """
    with clear_errors(debug):
        folder = None if out is None else output_folder(out)
        if (n_samples is None) == (threshold is None):
            raise ValueError(
                "give either --n-samples (sample size of the tests) or --threshold (the smallest "
                f"|partial correlation| that counts as dependence), "
                f"not {'both' if threshold is not None else 'neither'}"
            )
        if alpha is not None and threshold is not None:
            raise ValueError("--alpha is the level of the tests of --n-samples; leave it out")
        values, names = read_matrix(matrix, key, attention=attention, head=head)
        import causal_lvlm as cl
        from causal_lvlm.explanation.wording import amount

        structure = cl.learn_structure(
            values,
            **given(n_samples=n_samples, alpha=alpha, threshold=threshold, algorithm=algorithm),
        )
        pag = structure.pag
        if folder is not None:
            from causal_lvlm.storage import write_bytes

            write_bytes(folder / "pag.json", pag.to_json(names).encode())
            write_bytes(folder / "pag.dot", pag.to_dot(names).encode())
            pag.to_graphml(folder / "pag.graphml", names)
        if as_json:
            typer.echo(pag.to_json(names))
            return
        edges = json.loads(pag.to_json(names))["edges"]
        typer.echo(
            f"{amount(len(names), 'node')}, {amount(len(edges), 'edge')}, "
            f"{amount(structure.n_tests, 'test')} of independence, "
            f"{'complete' if structure.complete else f'NOT complete: {structure.stopped}'}"
        )
        for edge in edges[:40]:
            typer.echo(f"  {names[edge['source']]} {edge['kind']} {names[edge['target']]}")
        if len(edges) > 40:
            typer.echo(f"  ... and {len(edges) - 40} more (--json or --out gives all)")
        if folder is not None:
            typer.echo(f"wrote {folder / 'pag.json'}, pag.dot and pag.graphml")
