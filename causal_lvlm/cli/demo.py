"""``causal-lvlm demo``: words of the embedded model, explained on the bundled pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causal_lvlm.cli.overwriting import EXPLAINED, results_folder
from causal_lvlm.cli.results import describe, finish, was_interrupted
from causal_lvlm.cli.support import Debug, Failures, Progress, clear_errors, one_thread, writing
from causal_lvlm.cli.targets import default_target

if TYPE_CHECKING:
    from causal_lvlm.explanation import Explanation
    from causal_lvlm.explanation.stability import TargetStability
    from causal_lvlm.lvlm import Trace
    from causal_lvlm.tiny import Sample
    from causal_lvlm.viz.case import Case

__all__ = ["demo"]

DEMO_METHODS = ("relevancy", "attention", "rollout", "integrated_gradients", "leave_one_out")
DEMO_BUDGETS = 8  # tokens of each method that are masked together, from 1 to this
DEMO_STEPS = 16  # counts at which a curve is read: the demo is to be done in a minute
DEMO_STABILITY = 20  # graphs from jittered weights


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-output"),
    max_runs: Annotated[int, typer.Option(help="Budget of masked model runs per word.")] = 600,
    debug: Debug = False,
) -> None:
    """Explain words of the embedded tiny model on its bundled pictures.

    Needs no network and no other model. Writes report.html, explanation.json and the pictures. The
    methods beside the sets are measured as well.
    """
    one_thread()
    with clear_errors(debug):
        folder = results_folder(out, EXPLAINED)
        from causal_lvlm.tiny import sample_inputs
        from causal_lvlm.viz.bundle import write_cases
        from causal_lvlm.viz.view import view_of

        with Progress(steps=len(sample_inputs()) + 1) as progress:
            cases, stopped = _explain_samples(sample_inputs(), max_runs, progress)
        failures = Failures(debug)
        with failures.kept("printing"):  # first, as a disk may be full
            for case in cases:
                typer.echo(f"\n{case.name}: “{view_of(case.trace).run.answer}”")
                for explanation in case.explanations:
                    typer.echo(describe(explanation))
        written: list[Path] = []
        with writing(folder, failures, len(cases)) as drawing:
            written = write_cases(
                cases,
                folder,
                title="causal-lvlm demo: why did the tiny model say this?",
                note="Every set on this page was verified by running the model again, unless it "
                "says otherwise. The model is the small LLaVA that comes with the package.",
                interrupted=stopped,
                progress=drawing,
            )
        failures.say()
        if written:
            finish(folder, written, [e for c in cases for e in c.explanations], stopped)
        failures.end()


def _explain_samples(
    samples: Sequence[Sample], max_runs: int, progress: Progress
) -> tuple[list[Case], bool]:
    """Return one case per bundled sample, and whether Ctrl-C ended the work."""
    import causal_lvlm as cl
    from causal_lvlm.explanation.head_graphs import head_graphs
    from causal_lvlm.methods import measure_faithfulness
    from causal_lvlm.viz.case import Case

    cases: list[Case] = []
    try:
        progress.step("loading the embedded model")
        model = cl.load_model()
        progress.done()
        for sample in samples:
            progress.step(f"explaining {sample.name}")
            trace = model.run(sample.image_path, sample.prompt)
            invented = sample.hallucination and "spoon" in trace.answer.split()
            target = "spoon" if invented else default_target(trace.layout)[0]
            found = cl.explain(
                trace, target, max_runs=max_runs, graph=True, progress=progress.inside
            )
            cases.append(Case(trace, [found], [], sample.name, sample.note))
            if was_interrupted(found):
                return cases, True
            progress.step(f"comparing methods on {sample.name}")
            scores = [cl.attribute(trace, found.target, name) for name in DEMO_METHODS]
            table = measure_faithfulness(trace, found, scores, most=DEMO_BUDGETS, steps=DEMO_STEPS)
            cases[-1] = Case(
                trace, [found], scores, sample.name, sample.note, metrics=[table],
                stability=_stability(trace, found), heads=[head_graphs(trace, found.target)],
            )  # fmt: skip
            progress.done()
    except KeyboardInterrupt:
        if not cases:
            raise
        return cases, True
    return cases, False


def _stability(trace: Trace, found: Explanation) -> list[TargetStability]:
    """Return how stable the edges of an explanation's graph are; empty where it has no graph."""
    from causal_lvlm.explanation.trust import explanation_stability

    return [explanation_stability(trace, found, runs=DEMO_STABILITY)] if found.graphs else []
