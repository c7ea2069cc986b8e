"""The learning curve of a training run as a picture."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["draw_curve"]


def draw_curve(metrics: Path, picture: Path) -> None:
    """Draw losses and validation accuracy over wall-clock minutes.

    Parameters
    ----------
    metrics : Path
        The ``curve.jsonl`` of a run.
    picture : Path
        PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(9.0, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    tested = [line for line in lines if "validation" in line]
    for kind in tested[-1]["validation"] if tested else ():
        if kind == "loss":
            continue
        upper.plot(
            [line["seconds"] / 60 for line in tested],
            [100 * line["validation"][kind] for line in tested],
            label=f"{kind} (true caption)" if kind == "cup without spoon" else kind,
            linestyle=":" if kind == "cup without spoon" else "-",
        )
    upper.set(ylabel="exact answers on validation scenes, %", ylim=(0, 101))
    upper.axhline(97, color="0.7", linewidth=0.8)
    if tested:
        upper.legend(loc="lower right", fontsize=8)
    for name in ("answer_loss", "patch_loss"):
        with_it = [line for line in lines if name in line]
        if with_it:
            lower.semilogy(
                [line["seconds"] / 60 for line in with_it],
                [line[name] for line in with_it],
                label=name.replace("_", " "),
            )
    lower.set(xlabel="minutes", ylabel="training loss")
    if lines:
        lower.legend(loc="upper right", fontsize=8)
    figure.savefig(picture, dpi=110)
