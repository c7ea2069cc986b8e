"""The command ``causal-lvlm``: demo, explain, learn, methods.

1. Bad input ends with one line on stderr and exit code 2; ``--debug`` shows where it came from.
2. Results go to stdout, progress and remarks to stderr, so that ``--json`` can be piped.
3. The output folder is proven to be writable before any work starts.
4. Ctrl-C keeps what was found: it is written (or printed), and the exit code is 130.

Torch and transformers are imported inside the commands that need them: ``--help`` is instant.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causal_lvlm.errors import CausalLVLMError, TargetError
from causal_lvlm.storage import output_folder, to_jsonable

if TYPE_CHECKING:
    from causal_lvlm.tokens import Target, TokenLayout

__all__ = ["app", "default_target", "find_target", "main"]

INTERRUPTED = 130
BAD_INPUT = 2
DEMO_METHODS = ("relevancy", "attention", "rollout")

app = typer.Typer(
    name="causal-lvlm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Why did a vision-language model say that word? Finds the smallest set of image patches "
    "and words that the word depends on, and verifies it by running the model again with the set "
    "masked. Start with: causal-lvlm demo",
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (entry point of the package)."""
    app(args=None if arguments is None else list(arguments))


def _say(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _clear_errors(debug: bool) -> Iterator[None]:
    """Turn expected errors into one line and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        _say("causal-lvlm: interrupted; nothing had been found yet")
        raise typer.Exit(INTERRUPTED) from None
    except (CausalLVLMError, ValueError, OSError) as error:
        if debug:
            raise
        _say(f"causal-lvlm: {' '.join(str(error).split())}")
        raise typer.Exit(BAD_INPUT) from None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say what is safe when Ctrl-C comes while pictures are drawn: the numbers come first."""
    try:
        yield
    except KeyboardInterrupt:
        kept = folder / "explanation.json"
        _say(
            f"causal-lvlm: interrupted while drawing; the numbers are in {kept}"
            if kept.is_file()
            else "causal-lvlm: interrupted before anything was written"
        )
        raise typer.Exit(INTERRUPTED) from None


class _Progress:
    """A progress bar on stderr, which is removed before anything else is printed."""

    def __init__(self, steps: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=steps, file=sys.stderr, leave=False, unit="step")

    def __enter__(self) -> _Progress:
        """Start."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar, also after an error."""
        self.bar.close()

    def step(self, text: str) -> None:
        """Name what is done now."""
        self.bar.set_postfix_str("", refresh=False)
        self.bar.set_description_str(text)

    def done(self) -> None:
        """Count one step."""
        self.bar.update(1)

    def inside(self, stage: str, used: int, most: int) -> None:
        """Show how far a search is (the callback of `causal_lvlm.explain`)."""
        self.bar.set_postfix_str(f"{stage}, {used}/{most} model runs")


def _one_thread() -> None:
    """Ask numerical libraries for one thread: many make a tiny model slower, not faster."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def default_target(layout: TokenLayout) -> tuple[Target, str]:
    """Choose a target when none was named: the only word of the answer, else its last word.

    Parameters
    ----------
    layout : TokenLayout

    Returns
    -------
    target : Target
    remark : str
        Which word was chosen, and how to choose another.

    Raises
    ------
    TargetError
        If the answer holds no word.
    """
    from causal_lvlm.tokens import resolve_target

    content = [
        p
        for p in range(layout.n_prompt, len(layout))
        if layout.modality[p] == "generated" and any(c.isalnum() for c in layout.tokens[p])
    ]
    if not content:
        raise TargetError("the answer holds no word; name a token by its index with --target 0")
    last = first = content[-1]
    word = layout.words[last]
    while word >= 0 and first - 1 in content and layout.words[first - 1] == word:
        first -= 1
    start = layout.n_prompt
    target = resolve_target(layout, slice(first - start, last - start + 1))
    only = content[0] == first
    which = "the only word" if only else "the last word"
    return target, f"explaining “{target.text}”, {which} of the answer (--target chooses another)"


def find_target(layout: TokenLayout, text: str) -> Target:
    """Return the target a user named: a word or phrase of the answer, else a token's index.

    Raises
    ------
    TargetError
        If the answer holds no such word and the text is no valid index.
    """
    from causal_lvlm.tokens import resolve_target

    try:
        return resolve_target(layout, text)
    except TargetError:
        try:
            index = int(text)
        except ValueError:
            index = None  # type: ignore[assignment]
        if index is None:
            raise
        return resolve_target(layout, index)


def _was_interrupted(explanation: Any) -> bool:
    return any(
        "interrupted" in (item.outcome, getattr(item, "ended", None))
        for item in explanation.sets.values()
        if item is not None
    )


def _describe(explanation: Any) -> str:
    """Return an explanation as a few lines of text."""
    from causal_lvlm.viz import wording

    lines = [explanation.sentence()]
    for name, item in explanation.sets.items():
        if item is None:
            continue
        state = wording.verdict(item.verified) if item.units else wording.outcome(item.outcome)
        parts = [f"{item.size} token{'' if item.size == 1 else 's'}" if item.units else "", state]
        if item.verified:
            parts.append(item.minimality)
        if item.random_flip_rate is not None:
            parts.append(f"random sets {item.random_flip_rate:.0%} of {item.n_random}")
        if item.found_by is not None:
            parts.append(f"found by {wording.found_by(item)}")
        parts.append(f"{item.model_runs} model run{'' if item.model_runs == 1 else 's'}")
        lines.append(f"  {wording.set_title(name)}: {', '.join(p for p in parts if p)}")
    return "\n".join(lines)


def _result_json(trace: Any, explanations: list[Any], attributions: list[Any]) -> str:
    value = {
        "answer": trace.answer,
        "prompt": trace.prompt,
        "explanations": [e.to_dict() for e in explanations],
        "attributions": [a.to_dict() for a in attributions],
    }
    return json.dumps(to_jsonable(value), ensure_ascii=False, indent=1, default=str)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-output"),
    max_runs: Annotated[int, typer.Option(help="Budget of masked model runs per word.")] = 600,
    debug: Debug = False,
) -> None:
    """Explain words of the embedded tiny model on its bundled pictures.

    Needs no network and no other model. Writes report.html, explanation.json and the pictures.
    """
    _one_thread()
    with _clear_errors(debug):
        folder = output_folder(out)
        from causal_lvlm.tiny import sample_inputs
        from causal_lvlm.viz.bundle import write_cases

        with _Progress(steps=len(sample_inputs()) + 2) as progress:
            cases, stopped = _explain_samples(sample_inputs(), max_runs, progress)
            progress.step("drawing pictures")
            with _writing(folder):
                written = write_cases(
                    cases,
                    folder,
                    title="causal-lvlm demo: why did the tiny model say this?",
                    note="Every set on this page was verified by running the model again, unless "
                    "it says otherwise. The model is the small LLaVA that comes with the package.",
                    interrupted=stopped,
                    progress=progress.step,
                )
        for case in cases:
            typer.echo(f"\n{case.name}: “{case.trace.answer}”")
            for explanation in case.explanations:
                typer.echo(_describe(explanation))
        _finish(folder, written, [e for c in cases for e in c.explanations], stopped)


def _explain_samples(
    samples: Sequence[Any], max_runs: int, progress: _Progress
) -> tuple[list[Any], bool]:
    """Return one case per bundled sample, and whether Ctrl-C ended the work."""
    import causal_lvlm as cl
    from causal_lvlm.viz.report import Case

    cases: list[Any] = []
    try:
        progress.step("loading the embedded model")
        model = cl.load_model()
        progress.done()
        for sample in samples:
            progress.step(f"explaining {sample.name}")
            trace = model.run(sample.image_path, sample.prompt)
            invented = sample.hallucination and "spoon" in trace.answer.split()
            target = "spoon" if invented else default_target(trace.layout)[0]
            found = cl.explain(trace, target, max_runs=max_runs, progress=progress.inside)
            cases.append(Case(trace, [found], [], sample.name, sample.note))
            if _was_interrupted(found):
                return cases, True
            scores = [cl.attribute(trace, found.target, name) for name in DEMO_METHODS]
            cases[-1] = Case(trace, [found], scores, sample.name, sample.note)
            progress.done()
    except KeyboardInterrupt:
        if not cases:
            raise
        return cases, True
    return cases, False


def _finish(folder: Path, written: list[Path], explanations: list[Any], stopped: bool) -> None:
    """Say what was written, with numbers; end with the right exit code."""
    verified = sum(bool(e.verified) for e in explanations)
    runs = sum(int(e.model_runs) for e in explanations)
    pictures = sum(path.suffix == ".png" for path in written)
    typer.echo(
        f"\n{verified} of {len(explanations)} explained words have a verified set; "
        f"{runs} masked model runs.\n"
        f"Wrote {len(written)} files ({pictures} pictures) to {folder}: open "
        f"{folder / 'report.html'}; all numbers are in {folder / 'explanation.json'}."
    )
    if stopped:
        _say("causal-lvlm: interrupted; what had been found was saved")
        raise typer.Exit(INTERRUPTED)


def _options(**given: Any) -> dict[str, Any]:
    """Keep what the user gave, so that the library's own defaults hold for the rest."""
    return {name: value for name, value in given.items() if value is not None}


def _layer(text: str | None) -> int | str | None:
    if text is None or text == "effective":
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--layer must be a number or 'effective', got {text!r}") from None


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(help="Picture file.")],
    prompt: Annotated[str, typer.Argument(help="Question or instruction.")],
    model: Annotated[
        str | None,
        typer.Option(help="Hub id or local folder; default: the embedded tiny model."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="Word or phrase of the answer, or index of a generated token from 0; repeatable. "
            "Default: the last word of the answer.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            help="Heat map of another method for comparison; repeatable. See: causal-lvlm methods.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report, pictures, JSON.")] = None,
    as_json: Json = False,
    mode: Annotated[str | None, typer.Option(help="necessary (default) or sufficient.")] = None,
    tester: Annotated[
        str | None, typer.Option(help="What counts as a change: flip (default), drop, contrast.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="The other word, for --tester contrast.")
    ] = None,
    candidates: Annotated[
        str | None, typer.Option(help="What may be masked: all (default), image, text.")
    ] = None,
    masking: Annotated[
        str | None,
        typer.Option(help="remove (default), edges, neutral, pixels-blur, pixels-mean."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer whose attention is used (-1), or 'effective'.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Covariance from attention (default), output, relevancy.")
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="Row that stands for the target: own or predictor.")
    ] = None,
    sink: Annotated[
        str | None, typer.Option(help="Attention sinks: keep, drop, condition.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Smallest |partial correlation| that counts.")
    ] = None,
    n_samples: Annotated[
        int | None, typer.Option(help="Sample size of the tests, instead of --threshold.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Significance level, 1e-5.")] = None,
    max_radius: Annotated[int | None, typer.Option(help="Depth of the PDS-trees, 3.")] = None,
    pool: Annotated[int | None, typer.Option(help="Mask image tokens in k x k blocks.")] = None,
    max_runs: Annotated[int | None, typer.Option(help="Budget of masked model runs.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds per target.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the random control sets.")] = None,
    debug: Debug = False,
) -> None:
    """Ask a model about a picture and explain a word of its answer.

    Example: causal-lvlm explain scene.png "what color is the circle ?" -t red --out result
    """
    if model is None:
        _one_thread()
    with _clear_errors(debug):
        folder = None if out is None else output_folder(out)
        options = _options(
            mode=mode, tester=tester, against=against, candidates=candidates, masking=masking,
            layer=_layer(layer), source=source, row=row, sink=sink, pool=pool,
            threshold=threshold, n_samples=n_samples, alpha=alpha, max_radius=max_radius,
            max_runs=max_runs, time_limit=time_limit, seed=seed,
        )  # fmt: skip
        import causal_lvlm as cl

        methods = list(method or ())
        _check_methods(methods)
        steps = 3 + max(1, len(target or ())) * (1 + len(methods))
        written: list[Path] = []
        with _Progress(steps) as progress:
            progress.step("loading the model")
            loaded = cl.load_model(model, device=device, dtype=dtype, revision=revision)
            progress.done()
            progress.step("asking the model")
            trace = loaded.run(image, prompt, max_new_tokens=max_new_tokens)
            progress.done()
            remark = ""
            if target:
                targets = [find_target(trace.layout, text) for text in target]
            else:
                chosen, remark = default_target(trace.layout)
                targets = [chosen]
            explanations, attributions, stopped = _explain_targets(
                trace, targets, methods, options, progress
            )
            if folder is not None:
                from causal_lvlm.viz.bundle import write_bundle

                progress.step("drawing pictures")
                with _writing(folder):
                    written = write_bundle(
                        trace,
                        explanations,
                        attributions,
                        folder,
                        interrupted=stopped,
                        progress=progress.step,
                    )
        if as_json:
            typer.echo(_result_json(trace, explanations, attributions))
        else:
            typer.echo(f"answer: {trace.answer}")
            if remark:
                typer.echo(remark)
            for explanation in explanations:
                typer.echo("\n" + _describe(explanation))
        if folder is not None and not as_json:
            _finish(folder, written, explanations, stopped)
        elif stopped:
            kept = "saved" if folder is not None else "printed"
            _say(f"causal-lvlm: interrupted; what had been found was {kept}")
            raise typer.Exit(INTERRUPTED)


def _explain_targets(
    trace: Any, targets: list[Target], methods: list[str], options: dict[str, Any],
    progress: _Progress,
) -> tuple[list[Any], list[Any], bool]:  # fmt: skip
    """Return explanations, attributions, and whether Ctrl-C ended the work."""
    import causal_lvlm as cl

    explanations: list[Any] = []
    attributions: list[Any] = []
    try:
        for wanted in targets:
            progress.step(f"explaining “{wanted.text}”")
            found = cl.explain(trace, wanted, progress=progress.inside, **options)
            explanations.append(found)
            progress.done()
            if _was_interrupted(found):
                return explanations, attributions, True
            for name in methods:
                progress.step(f"{name} for “{wanted.text}”")
                attributions.append(cl.attribute(trace, wanted, name))
                progress.done()
    except KeyboardInterrupt:
        if not explanations:
            raise
        return explanations, attributions, True
    return explanations, attributions, False


def _check_methods(methods: list[str]) -> None:
    """Refuse an unknown method before a model is loaded."""
    import causal_lvlm as cl

    known = {name for info in cl.list_methods() for name in (info.name, *info.aliases)}
    plain = {name.lower().replace("-", "_") for name in known}
    for name in methods:
        if name.lower().replace("-", "_") not in plain:
            raise ValueError(
                f"unknown method {name!r}; known are "
                f"{', '.join(info.name for info in cl.list_methods())}"
            )


@app.command()
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
    with _clear_errors(debug):
        folder = None if out is None else output_folder(out)
        values, names = _read_matrix(matrix, key, attention, head)
        if n_samples is None and threshold is None:
            raise ValueError(
                "give --n-samples (sample size of the tests) or --threshold (the smallest "
                "|partial correlation| that counts as dependence)"
            )
        import causal_lvlm as cl

        structure = cl.learn_structure(
            values,
            **_options(n_samples=n_samples, alpha=alpha, threshold=threshold, algorithm=algorithm),
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
            f"{len(names)} nodes, {len(edges)} edges, {structure.n_tests} tests of independence, "
            f"{'complete' if structure.complete else 'NOT complete'}"
        )
        for edge in edges[:40]:
            typer.echo(f"  {names[edge['source']]} {edge['kind']} {names[edge['target']]}")
        if len(edges) > 40:
            typer.echo(f"  ... and {len(edges) - 40} more (--json or --out gives all)")
        if folder is not None:
            typer.echo(f"wrote {folder / 'pag.json'}, pag.dot and pag.graphml")


def _read_matrix(
    path: Path, key: str | None, attention: bool, head: int | None
) -> tuple[Any, list[str]]:
    """Return a correlation matrix and the names of its nodes."""
    import numpy as np

    from causal_lvlm.errors import AttentionError

    try:
        loaded = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no .npy or .npz file of numbers ({error})") from error
    if isinstance(loaded, np.ndarray):
        values = loaded
    else:
        with loaded:
            names = list(loaded.files)
            wanted = key or next((n for n in ("correlation", "attention") if n in names), None)
            wanted = wanted or (names[0] if len(names) == 1 else None)
            if wanted not in names:
                shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
                raise ValueError(f"{path.name} holds {shown}; choose one with --key")
            values = loaded[wanted]
    values = np.asarray(values, dtype=np.float64)
    if not attention:
        return values, [str(n) for n in range(len(values))]
    if values.ndim == 3:
        if head is None or not -len(values) <= head < len(values):
            raise AttentionError(
                f"attention has {len(values)} heads; choose one with --head 0..{len(values) - 1}"
            )
        values = values[head]
    if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
        raise AttentionError(
            f"attention must be a finite, non-negative matrix (T, T), got shape {values.shape}"
        )
    from causal_lvlm.correlation import correlation_of_rows

    strength = (values**2).sum(axis=1)
    kept = np.flatnonzero(strength > 1e-12 * strength.max(initial=0.0))
    if len(kept) < len(values):
        lost = sorted(set(range(len(values))) - set(kept.tolist()))
        _say(f"rows without weight are left out: {lost}")
    return correlation_of_rows(values[kept]), [str(n) for n in kept]


@app.command()
def methods(as_json: Json = False, debug: Debug = False) -> None:
    """List the methods whose heat maps `explain --method` can add."""
    with _clear_errors(debug):
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
