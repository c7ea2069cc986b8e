"""``causal-lvlm demo``: words of the embedded model, explained on the bundled pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from causal_lvlm.cli.results import describe, finish, was_interrupted
from causal_lvlm.cli.support import Debug, Progress, clear_errors, one_thread, writing
from causal_lvlm.cli.targets import default_target
from causal_lvlm.storage import output_folder

__all__ = ["demo"]

DEMO_METHODS = ("relevancy", "attention", "rollout")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-output"),
    max_runs: Annotated[int, typer.Option(help="Budget of masked model runs per word.")] = 600,
    debug: Debug = False,
) -> None:
    """Explain words of the embedded tiny model on its bundled pictures.

    Needs no network and no other model. Writes report.html, explanation.json and the pictures.
    """
    one_thread()
    with clear_errors(debug):
        folder = output_folder(out)
        from causal_lvlm.tiny import sample_inputs
        from causal_lvlm.viz.bundle import write_cases

        with Progress(steps=len(sample_inputs()) + 2) as progress:
            cases, stopped = _explain_samples(sample_inputs(), max_runs, progress)
            progress.step("drawing pictures")
            with writing(folder, progress):
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
                typer.echo(describe(explanation))
        finish(folder, written, [e for c in cases for e in c.explanations], stopped)


def _explain_samples(
    samples: Sequence[Any], max_runs: int, progress: Progress
) -> tuple[list[Any], bool]:
    """Return one case per bundled sample, and whether Ctrl-C ended the work."""
    import causal_lvlm as cl
    from causal_lvlm.viz.case import Case

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
            if was_interrupted(found):
                return cases, True
            scores = [cl.attribute(trace, found.target, name) for name in DEMO_METHODS]
            cases[-1] = Case(trace, [found], scores, sample.name, sample.note)
            progress.done()
    except KeyboardInterrupt:
        if not cases:
            raise
        return cases, True
    return cases, False
