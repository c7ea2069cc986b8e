"""What the commands print about a result, and how they end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from causal_lvlm.cli.support import INTERRUPTED, say
from causal_lvlm.storage import to_jsonable
from causal_lvlm.summary import pictures_of

if TYPE_CHECKING:
    from causal_lvlm.attribution import Attribution
    from causal_lvlm.cli.looks import Looked
    from causal_lvlm.explanation import CausalGraph, Explanation
    from causal_lvlm.lvlm import Trace

__all__ = ["describe", "finish", "result_json", "was_interrupted"]


MOST_ROUTES = 5  # more are in the saved graph


def was_interrupted(explanation: Explanation) -> bool:
    """Say whether Ctrl-C ended the search of any scope."""
    return any("interrupted" in (s.outcome, s.ended) for s in explanation.sets.values())


def describe(explanation: Explanation) -> str:
    """Return an explanation as a few lines of text: its sentence, then a line per set."""
    from causal_lvlm.explanation.wording import amount, members, outcome, random_controls
    from causal_lvlm.viz import wording

    summary = explanation.summary
    n_images = len(pictures_of(summary))
    lines = [explanation.sentence()]
    for name, item in explanation.sets.items():
        parts = [outcome(item, explanation.mode, explanation.tester)]
        if item.units:
            parts = [members(explanation.layout, item), "not verified"]
        if item.verified:
            parts[-1] = ", ".join(p for p in ("verified", item.claim) if p)
            parts.append(random_controls(item, explanation.mode, explanation.tester))
        if item.found_by is not None:
            parts.append(f"found by {wording.found_by(item)}")
        parts.append(amount(item.model_runs, "model run"))
        lines.append(f"  {wording.set_title(name, n_images)}: {'; '.join(p for p in parts if p)}.")
    lines += _graph_lines(explanation.graph)
    about = summary.get("parameters") or {}
    remarks = [explanation.layer_remark, *(about.get("remarks") or ())]
    lines += [f"  Note: {remark}." for remark in remarks if remark]
    return "\n".join(lines)


def _graph_lines(graph: CausalGraph | None) -> list[str]:
    """Return what was found when edges were put to the model, and what that refuted."""
    if graph is None or graph.sufficient.outcome == "not_asked":
        return []
    lines = [f"  {text}" for text in graph.sentences()]
    routes = graph.routes(MOST_ROUTES)
    lines += [f"  Routes: {'; '.join(routes)}."] if routes else []
    lines += [f"  {text}" for text in graph.refuted()]
    return lines


def result_json(
    trace: Trace,
    explanations: Sequence[Explanation],
    attributions: Sequence[Attribution],
    looked: Looked,
) -> str:
    """Return answer, explanations and attributions of a run as JSON text."""
    value = {
        "answer": trace.answer,
        "prompt": trace.prompt,
        "explanations": [e.to_dict() for e in explanations],
        "attributions": [a.to_dict() for a in attributions],
        **{name: [r.to_dict() for r in found] for name, found in looked.parts().items()},
    }
    return json.dumps(to_jsonable(value), ensure_ascii=False, indent=1, default=str)


def finish(
    folder: Path, written: Sequence[Path], explanations: Sequence[Explanation], stopped: bool
) -> None:
    """Say what was written, with numbers; end with the right exit code."""
    from causal_lvlm.explanation.wording import amount

    verified = sum(bool(e.verified) for e in explanations)
    runs = sum(int(e.model_runs) for e in explanations)
    pictures = sum(path.suffix == ".png" for path in written)
    have = "has" if verified == 1 or len(explanations) == 1 else "have"
    typer.echo(
        f"\n{verified} of {amount(len(explanations), 'explained target')} {have} a verified set; "
        f"{amount(runs, 'masked model run')}.\n"
        f"Wrote {amount(len(written), 'file')} ({amount(pictures, 'picture')}) to {folder}: open "
        f"{folder / 'report.html'}; the numbers are in {folder / 'explanation.json'}."
    )
    if stopped:
        say("causal-lvlm: interrupted; what had been found was saved")
        raise typer.Exit(INTERRUPTED)
