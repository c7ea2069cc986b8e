"""``causal-lvlm explain``: ask a model about pictures, or about none, and explain its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causal_lvlm.checks import whole_number
from causal_lvlm.cli.explain_inputs import check_options, pictures_and_prompt
from causal_lvlm.cli.looks import Looked, Looks
from causal_lvlm.cli.overwriting import EXPLAINED, results_folder
from causal_lvlm.cli.results import describe, finish, result_json, was_interrupted
from causal_lvlm.cli.support import (
    INTERRUPTED,
    Debug,
    Failures,
    Json,
    Progress,
    clear_errors,
    given,
    one_thread,
    say,
    writing,
)
from causal_lvlm.cli.targets import default_target, find_target

if TYPE_CHECKING:
    from causal_lvlm.attribution import Attribution
    from causal_lvlm.explanation import Explanation
    from causal_lvlm.lvlm import Trace
    from causal_lvlm.tokens import Target

__all__ = ["explain"]


def _layer(text: str | None) -> int | str | None:
    """Return a number as one; what else it may be is checked with the other options."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return text


def explain(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[IMAGE]... PROMPT",
            help="Picture files, if any (none for a text model), then the question or instruction.",
        ),
    ],
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
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness",
            help="Measure the methods: mask what each ranks highest and ask the model again.",
        ),
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Metric for --faithfulness instead of deletion, insertion, comprehensiveness and "
            "sufficiency; repeatable."
        ),
    ] = None,
    stability: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Learn the graph again this many times from jittered weights; edges are then "
            "drawn as thick as they are stable.",
        ),
    ] = None,
    graph: Annotated[
        bool,
        typer.Option(
            "--graph",
            help="Put the edges of the graph to the model too: which alone keep the word, and "
            "which cut ends it.",
        ),
    ] = False,
    heads: Annotated[
        bool,
        typer.Option(
            "--heads", help="Show the graph of every head of the last layer in the report too."
        ),
    ] = False,
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
        str | None,
        typer.Option(help="Layer whose attention is the source: number, global, effective, mean."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Covariance from influence (default), attention, output, relevancy."),
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
    search: Annotated[
        str | None, typer.Option(help="guided (default), or graph: CLEANN's order of trials.")
    ] = None,
    max_radius: Annotated[int | None, typer.Option(help="Depth of the PDS-trees, 3.")] = None,
    pool: Annotated[int | None, typer.Option(help="Mask image tokens in k x k blocks.")] = None,
    max_runs: Annotated[int | None, typer.Option(help="Budget of masked model runs.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds per target.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="Memory for a batch of masked rows, such as 4GB; weights not counted."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the random control sets.")] = None,
    debug: Debug = False,
) -> None:
    """Ask a model about a picture and explain a word of its answer.

    Without a picture the model answers from the question alone.

    Example: causal-lvlm explain scene.png "what color is the circle ?" -t red --out result
    """
    if model is None:
        one_thread()
    with clear_errors(debug):
        paths, pictures, prompt = pictures_and_prompt(inputs)
        folder = None if out is None else results_folder(out, EXPLAINED, paths)
        options = given(
            mode=mode, tester=tester, against=against, candidates=candidates, masking=masking,
            layer=_layer(layer), source=source, row=row, sink=sink, pool=pool,
            threshold=threshold, n_samples=n_samples, alpha=alpha, search=search,
            max_radius=max_radius, max_runs=max_runs, time_limit=time_limit, seed=seed,
            graph=graph or None,
        )  # fmt: skip
        import causal_lvlm as cl

        methods = list(method or ())
        check_options(options, methods, target)
        whole_number("--max-new-tokens", max_new_tokens, 1)
        looks = Looks(faithfulness or bool(metric), tuple(metric or ()), stability, heads, seed)
        looks.check(source)
        steps = 2 + max(1, len(target or ())) * (1 + len(methods) + looks.steps)
        with Progress(steps) as progress:
            progress.step("loading the model")
            loaded = cl.load_model(
                model, device=device, dtype=dtype, revision=revision, max_memory=max_memory
            )
            progress.done()
            progress.step("asking the model")
            trace = loaded.run(pictures or None, prompt, max_new_tokens=max_new_tokens)
            progress.done()
            remark = ""
            if target:
                targets = [find_target(trace.layout, text) for text in target]
            else:
                chosen, remark = default_target(trace.layout)
                targets = [chosen]
            failures = Failures(debug)
            explanations, attributions, found, stopped = _explain_targets(
                trace, targets, methods, options, looks, progress, failures
            )
        with failures.kept("printing"):  # first, as a disk may be full
            if as_json:
                typer.echo(result_json(trace, explanations, attributions, found))
            else:
                typer.echo(f"answer: {trace.answer}")
                if remark:
                    typer.echo(remark)
                for explanation in explanations:
                    typer.echo("\n" + describe(_relevant(explanation, paths)))
                for text in found.describe():
                    typer.echo("\n" + text)
        written: list[Path] = []
        if folder is not None:
            from causal_lvlm.viz.bundle import write_bundle

            with writing(folder, failures, len(explanations)) as drawing:
                written = write_bundle(
                    trace, explanations, attributions, folder, metrics=found.metrics,
                    stability=found.stability, heads=found.heads, interrupted=stopped,
                    progress=drawing,
                )  # fmt: skip
        failures.say()
        if folder is not None and written and not as_json:
            finish(folder, written, explanations, stopped)
        elif stopped:
            kept = "saved" if written else "printed"
            say(f"causal-lvlm: interrupted; what had been found was {kept}")
            raise typer.Exit(INTERRUPTED)
        failures.end()


def _relevant(explanation: Explanation, images: Sequence[Path]) -> Explanation:
    """Leave out the set within the image where none was given: nobody asked for it."""
    if images or set(explanation.sets) == {"image"}:
        return explanation
    return replace(explanation, sets={k: v for k, v in explanation.sets.items() if k != "image"})


def _explain_targets(
    trace: Trace, targets: list[Target], methods: list[str], options: dict[str, Any],
    looks: Looks, progress: Progress, failures: Failures,
) -> tuple[list[Explanation], list[Attribution], Looked, bool]:  # fmt: skip
    """Return explanations, attributions, what was measured, and whether Ctrl-C ended the work."""
    import causal_lvlm as cl

    explanations: list[Explanation] = []
    attributions: list[Attribution] = []
    looked = Looked()
    try:
        for wanted in targets:
            progress.step(f"explaining “{wanted.text}”")
            if explanations:  # of another word: not to be lost
                before = len(explanations)
                with failures.kept(f"“{wanted.text}”"):
                    explanations.append(
                        cl.explain(trace, wanted, progress=progress.inside, **options)
                    )
                if len(explanations) == before:
                    continue
            else:
                explanations.append(cl.explain(trace, wanted, progress=progress.inside, **options))
            found = explanations[-1]
            progress.done()
            if was_interrupted(found):
                return explanations, attributions, looked, True
            for name in methods:
                progress.step(f"{name} for “{wanted.text}”")
                with failures.kept(f"--method {name} for “{wanted.text}”"):
                    attributions.append(cl.attribute(trace, wanted, name))
                progress.done()
            looks.look(trace, found, attributions, looked, progress, failures)
    except KeyboardInterrupt:
        if not explanations:
            raise
        return explanations, attributions, looked, True
    return explanations, attributions, looked, False
