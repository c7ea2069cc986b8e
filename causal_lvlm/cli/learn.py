"""``causal-lvlm learn``: a PAG or CPDAG from a data table, a matrix or attention in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causal_lvlm.checks import printable
from causal_lvlm.cli import learn_trust
from causal_lvlm.cli.learn_options import as_option, chosen_columns, node_pairs, tiers_of
from causal_lvlm.cli.matrix import read_input
from causal_lvlm.cli.overwriting import LEARNED, results_folder, spare
from causal_lvlm.cli.support import (
    INTERRUPTED,
    Debug,
    Failures,
    Json,
    KernelBar,
    clear_errors,
    given,
    say,
)
from causal_lvlm.cli.tables import Loaded
from causal_lvlm.errors import CausalLVLMError

if TYPE_CHECKING:
    from causal_lvlm.structure.sources import CorrelationSource

__all__ = ["learn"]


def learn(
    file: Annotated[
        Path,
        typer.Argument(help="Data table or matrix: .csv, .tsv, .parquet, .npy or .npz."),
    ],
    input: Annotated[
        str, typer.Option(help="auto, data (samples in rows), covariance, correlation, attention.")
    ] = "auto",
    key: Annotated[str | None, typer.Option(help="Name of the array in a .npz file.")] = None,
    header: Annotated[
        bool | None,
        typer.Option("--header/--no-header", help="First line of a text: names or numbers."),
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Use only these columns: A,B,C.")] = None,
    skip: Annotated[str | None, typer.Option(help="Leave these columns out: A,B,C.")] = None,
    drop: Annotated[
        bool,
        typer.Option("--drop", help="Leave out incomplete rows, constant and repeated columns."),
    ] = False,
    attention: Annotated[
        bool,
        typer.Option("--attention", help="The matrix is attention A (rows are queries): use A·Aᵀ."),
    ] = False,
    head: Annotated[int | None, typer.Option(help="Head, if attention is (heads, T, T).")] = None,
    sink: Annotated[str, typer.Option(help="Attention sinks: keep, drop or condition.")] = "keep",
    n_samples: Annotated[
        int | None, typer.Option(help="Sample size of the tests; for data the number of rows.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Significance level; default 1e-5.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Smallest |partial correlation| that counts, instead of --n-samples."),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            help="ordered_icd, icd, fci (PAG) or pc (CPDAG). Default: icd for data, covariances "
            "and named correlations, else ordered_icd (rows in causal order)."
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="stable (default: order-independent) or sequential.")
    ] = None,
    tiers: Annotated[
        str | None,
        typer.Option(
            help="Causal order: names 'A,B;C' (earliest first), a number per node, or a "
            "file with that."
        ),
    ] = None,
    max_conditioning_size: Annotated[
        int | None, typer.Option(help="Largest conditioning set.")
    ] = None,
    selection_bias: Annotated[
        bool, typer.Option("--selection-bias", help="Samples may have been selected by effects.")
    ] = False,
    required: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="There is an edge A - B. Repeatable.")
    ] = None,
    forbidden: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="There is no edge A - B. Repeatable.")
    ] = None,
    forbidden_orientation: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="A is no cause of B. Repeatable.")
    ] = None,
    required_cause: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="There is an edge A -> B. Repeatable.")
    ] = None,
    ancestor: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="A is a cause of B, perhaps through others. Repeatable."),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which the graph so far is given.")
    ] = None,
    max_tests: Annotated[
        int | None, typer.Option(help="CI tests after which the graph so far is given.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Threads; the result does not depend on them.")] = 1,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show sizes and edges on stderr.")
    ] = False,
    stability: Annotated[
        int | None,
        typer.Option(metavar="RUNS", help="Learn from so many resamples: share with each edge."),
    ] = None,
    null: Annotated[
        int | None,
        typer.Option(metavar="RUNS", help="Learn from so many permutations: edges by chance."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of --stability and --null.")] = 0,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="Graph to compare with: .json, .graphml, Tetrad or pcalg text. It must be a PAG "
            "(with pc a CPDAG); a DAG is not the PAG or CPDAG of itself."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for JSON, GraphML, DOT, pcalg and Tetrad text."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the graph: .png, .svg or .pdf.")
    ] = None,
    difference: Annotated[
        Path | None, typer.Option(help="Draw what differs from the graph of --compare.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn a causal graph (PAG or CPDAG) from a data table, a matrix or attention.

    Example: causal-lvlm learn data.csv --alpha 0.01 --out graph

    Example: causal-lvlm learn data.csv --stability 100 --null 200 --picture graph.png

    Example: causal-lvlm learn attention.npy --attention --head 3 --n-samples 128 --out graph
    """
    with clear_errors(debug), _options_named(debug):
        folder = None if out is None else results_folder(out, LEARNED, (file, compare))
        spare((picture, difference), (file, compare))
        if attention and input not in ("auto", "attention"):
            raise ValueError(f"--attention and --input {input} contradict each other")
        if alpha is not None and threshold is not None:
            raise ValueError("--alpha is the level of the tests of --n-samples; leave it out")
        loaded = chosen_columns(read_input(file, key, header), columns, skip)
        source = _source(
            loaded, "attention" if attention else input, n_samples, head=head, sink=sink, drop=drop
        )
        _check_level(source, n_samples, threshold)
        learn_trust.check_pictures(picture, difference, compare)
        again = learn_trust.prepared(
            loaded, source, runs=stability, permutations=null, seed=seed, head=head, sink=sink,
            threshold=threshold,
        )  # fmt: skip
        names = source.names or tuple(str(k) for k in range(len(source.correlation)))
        import causal_lvlm as cl
        from causal_lvlm.cli import graph_report
        from causal_lvlm.structure.compare import compare_graphs
        from causal_lvlm.structure.compiling import compile_kernels
        from causal_lvlm.structure.knowledge import BackgroundKnowledge

        knowledge = BackgroundKnowledge(
            required=tuple(node_pairs(required or (), "--required", names)),
            forbidden=tuple(node_pairs(forbidden or (), "--forbidden", names)),
            forbidden_orientations=tuple(
                node_pairs(forbidden_orientation or (), "--forbidden-orientation", names)
            ),
            required_causes=tuple(node_pairs(required_cause or (), "--required-cause", names)),
            ancestors=tuple(node_pairs(ancestor or (), "--ancestor", names)),
        )
        ordered = tiers_of(tiers, names)
        # Without an algorithm the library chooses: by the kind of source, and whether nodes are
        # ordered.
        options = given(
            n_samples=None if threshold is not None else source.n_samples,
            alpha=alpha, threshold=threshold, variant=variant, time_limit=time_limit,
            max_conditioning_size=max_conditioning_size, max_tests=max_tests, algorithm=algorithm,
            selection_bias=selection_bias, knowledge=knowledge if knowledge else None,
            order=None if ordered is None else ordered[0],
            tiers=None if ordered is None else ordered[1],
        )  # fmt: skip
        truth = None if compare is None else graph_report.read_truth(compare, names, algorithm)
        kernels = KernelBar()
        with closing(kernels):  # icd and ordered_icd call the same kernels
            compile_kernels(
                algorithm or "icd", variant or "stable", bool(selection_bias),
                progress=kernels.show if progress else None,
            )  # fmt: skip
        start = time.perf_counter()
        with _bar(progress) as shown:
            structure = cl.learn_structure(source, n_jobs=jobs, progress=shown, **options)
        seconds = time.perf_counter() - start
        comparison = None if truth is None else compare_graphs(structure, truth)
        stopped = structure.stopped == "interrupted"
        trust = learn_trust.Trust()
        if again is not None and not stopped:
            options["algorithm"] = structure.parameters["algorithm"]
            trust = learn_trust.learn_again(again, options, jobs, progress)
        for note in structure.notes:
            if note not in loaded.notes:  # those were said when the file was read
                say(as_option(note))
        failures = Failures(debug)
        with failures.kept("printing"):  # first, as a disk may be full
            if as_json:
                typer.echo(graph_report.as_json(structure, names, seconds, comparison, trust))
            else:
                lines = graph_report.summary_lines(structure, names, seconds, source.kind, trust)
                if comparison is not None:
                    lines += graph_report.comparison_lines(comparison, str(compare), names)
                typer.echo("\n".join(lines))
        if folder is not None:
            with failures.kept(f"writing to {str(folder)!r}"):
                written = graph_report.write_files(folder, structure, names, comparison, trust)
                if not as_json:
                    typer.echo(f"wrote {folder}: {', '.join(path.name for path in written)}")
        with failures.kept("drawing"):
            drawn = learn_trust.draw_pictures(
                structure, names, trust, truth, picture, difference, printable(file.name)
            )
            if drawn and not as_json:
                typer.echo(f"drew {', '.join(map(str, drawn))}")
        failures.say()
        if stopped:
            say("causal-lvlm: interrupted; this is the graph learned so far")
        elif trust.interrupted:
            say("causal-lvlm: interrupted; the graph is complete, what --stability and --null had "
                "not finished is missing")  # fmt: skip
        if stopped or trust.interrupted:
            raise typer.Exit(INTERRUPTED)
        failures.end()


@contextmanager
def _options_named(debug: bool) -> Iterator[None]:
    """Let errors of the library name options instead of arguments."""
    try:
        yield
    except CausalLVLMError as error:
        if debug:
            raise
        raise type(error)(as_option(str(error))) from error


def _source(
    loaded: Loaded,
    input: str,
    n_samples: int | None,
    *,
    head: int | None,
    sink: str,
    drop: bool,
) -> CorrelationSource:
    from causal_lvlm.structure.inputs import as_source

    kind = loaded.kind if input == "auto" else input
    if kind != "attention" and (head is not None or sink != "keep"):
        option = "--sink" if head is None else "--head"
        raise ValueError(f"{option} is an option of attention; give --attention as well")
    return as_source(
        loaded.values, input=kind, n_samples=n_samples, names=loaded.names, rows=loaded.rows,
        head=head, sink=sink, drop=drop, notes=loaded.notes,
    )  # fmt: skip


def _check_level(source: CorrelationSource, n_samples: int | None, threshold: float | None) -> None:
    both = n_samples is not None and threshold is not None
    neither = source.n_samples is None and threshold is None
    if both or neither:
        raise ValueError(
            "give either --n-samples (sample size of the tests) or --threshold (the smallest "
            f"|partial correlation| that counts as dependence), not {'both' if both else 'neither'}"
        )


@contextmanager
def _bar(wanted: bool) -> Iterator[Callable[[int, int, int], None] | None]:
    """Return a callback of `learn_structure` that shows sizes and edges on stderr."""
    if not wanted:
        yield None
        return
    from tqdm import tqdm

    bar = tqdm(file=sys.stderr, leave=False, unit="edge")

    def show(size: int, done: int, edges: int) -> None:
        bar.set_description_str(f"conditioning sets of size {size}", refresh=False)
        bar.total, bar.n = edges, done
        bar.refresh()

    try:
        yield show
    finally:
        bar.close()
