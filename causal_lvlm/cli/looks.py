"""What ``causal-lvlm explain`` adds to the sets: faithfulness, stability, graphs of heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from causal_lvlm.cli.support import Failures, Progress
from causal_lvlm.errors import OptionError

if TYPE_CHECKING:
    from causal_lvlm.attribution import Attribution
    from causal_lvlm.explanation import Explanation
    from causal_lvlm.explanation.head_graphs import HeadGraphs
    from causal_lvlm.explanation.stability import TargetStability
    from causal_lvlm.lvlm import Trace
    from causal_lvlm.metrics import MetricTable

__all__ = ["Looked", "Looks"]


@dataclass
class Looked:
    """What was found, in the order of the words."""

    metrics: list[MetricTable] = field(default_factory=list)
    stability: list[TargetStability] = field(default_factory=list)
    heads: list[HeadGraphs] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def parts(self) -> dict[str, Sequence[MetricTable | TargetStability | HeadGraphs]]:
        """Return what there is, by the names that reports use."""
        parts: dict[str, Sequence[MetricTable | TargetStability | HeadGraphs]] = {
            "metrics": self.metrics, "stability": self.stability, "heads": self.heads,
        }  # fmt: skip
        return {name: found for name, found in parts.items() if found}

    def describe(self) -> list[str]:
        """Return the tables of metrics as text, with what they cost."""
        from causal_lvlm.explanation.wording import amount

        return self.remarks + [
            f"Faithfulness for “{table.target.text}” ({amount(table.model_runs, 'model run')}"
            f"{_budget_said(table)}):\n{table.table()}"
            for table in self.metrics
        ]


def _budget_said(table: MetricTable) -> str:
    """Return what the first number of a table is, empty if it has none."""
    for value in table.values:
        if value.metric.startswith("masked_top"):
            size, kept = value.detail.get("budget"), value.detail.get("mode") == "sufficient"
            return (
                f"; masked_top: probability with the {size} tokens that the method ranks highest "
                + ("kept and all others masked" if kept else "masked")
            )
    return ""


@dataclass(frozen=True)
class Looks:
    """What was asked for.

    Attributes
    ----------
    faithfulness : bool
    metrics : tuple of str
        Empty for the usual ones.
    stability : int or None
        Number of graphs.
    heads : bool
    seed : int or None
    """

    faithfulness: bool = False
    metrics: Sequence[str] = ()
    stability: int | None = None
    heads: bool = False
    seed: int | None = None

    @property
    def steps(self) -> int:
        """Number of things to do for each word."""
        return self.faithfulness + (self.stability is not None) + self.heads

    def check(self, source: str | None) -> None:
        """Refuse what cannot be done, before a model is loaded; raises `ValueError`."""
        if self.metrics:
            from causal_lvlm.metrics.masked_top import measurable

            measurable(self.metrics)
        if self.stability is not None and source == "relevancy":
            raise OptionError(
                "--stability jitters weights, which relevancy clips; use --source influence "
                "(the default) or attention"
            )

    def look(
        self,
        trace: Trace,
        found: Explanation,
        attributions: Sequence[Attribution],
        into: Looked,
        progress: Progress,
        failures: Failures,
    ) -> None:
        """Do what was asked for about one explanation; what fails stops nothing else."""
        text = found.target.text
        if self.faithfulness:
            with failures.kept(f"--faithfulness for “{text}”"):
                from causal_lvlm.methods import measure_faithfulness
                from causal_lvlm.metrics.measure import DEFAULT_METRICS

                progress.step(f"asking the model about the methods for “{text}”")
                names = tuple(self.metrics) or DEFAULT_METRICS
                into.metrics.append(
                    measure_faithfulness(
                        trace, found, attributions, metrics=names, seed=self.seed or 0,
                        progress=lambda what, done, total: progress.bar.set_postfix_str(what),
                    )
                )  # fmt: skip
                progress.done()
        if self.stability is not None:
            with failures.kept(f"--stability for “{text}”"):
                from causal_lvlm.explanation.trust import explanation_stability

                progress.step(f"learning the graph of “{text}” again")
                if found.graphs:
                    into.stability.append(
                        explanation_stability(
                            trace, found, runs=self.stability, seed=self.seed or 0
                        )
                    )
                else:
                    into.remarks.append(
                        f"--stability: there is no graph of “{text}” to learn again"
                    )
                progress.done()
        if self.heads:
            with failures.kept(f"--heads for “{text}”"):
                from causal_lvlm.explanation.head_graphs import head_graphs

                progress.step(f"learning the graphs of heads for “{text}”")
                into.heads.append(head_graphs(trace, found.target))
                progress.done()
