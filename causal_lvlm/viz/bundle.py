"""The folder of results that `causal-lvlm demo` and `causal-lvlm explain --out` leave behind.

1. The numbers, written first, so that nothing that was found can be lost by a picture that fails.
   With one explained target, ``explanation.json`` is what `Explanation.save` writes. With another
   number of them each has such a file of its own, named like its pictures (``3-yes.json``), and
   ``explanation.json`` is an index: sentences, sets and parameters, and the names of the files.
   Every attribution is a file that `Attribution.load` reads, beside its heat map; so are metrics,
   stability of edges and graphs of heads, where there are any.
2. The pictures of every explanation and the heat map of every attribution.
3. The PAG as DOT, GraphML and JSON.
4. ``report.html``, which holds all of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from causal_lvlm.attribution.result import Attribution
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.head_graphs import HeadGraphs
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.metrics.result import MetricTable
from causal_lvlm.protocols import Recorded
from causal_lvlm.storage import output_folder, to_utf8, write_bytes, write_json
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.report import report_cases
from causal_lvlm.viz.view import view_of

__all__ = ["file_stem", "write_bundle", "write_cases"]

INDEX = "explanation.json"
Other: TypeAlias = MetricTable | TargetStability | HeadGraphs
_OTHERS = ("metrics", "stability", "heads")


def file_stem(text: str) -> str:
    """Return a text as part of a file name: letters, digits and hyphens, at most 40 of them."""
    kept = re.sub(r"[^\w]+", "-", text.casefold(), flags=re.UNICODE).strip("-_")
    return kept[:40] or "token"


def write_bundle(
    trace: Recorded | Mapping[str, Any],
    explanations: Iterable[Explanation],
    attributions: Iterable[Attribution],
    folder: str | os.PathLike[str],
    *,
    metrics: Iterable[MetricTable] = (),
    stability: Iterable[TargetStability] = (),
    heads: Iterable[HeadGraphs] = (),
    interrupted: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write everything found about one run.

    Parameters
    ----------
    trace : Trace or mapping
    explanations : iterable of Explanation
    attributions : iterable of Attribution
    folder : path_like
        Made if it does not exist.
    metrics, stability, heads : iterable
        See `causal_lvlm.report`.
    interrupted : bool
        Said in the report, and in the index of several explanations.
    progress : callable, optional
        Called with a few words before each explanation is drawn.

    Returns
    -------
    list of pathlib.Path
        The files written; ``report.html`` is the last.

    Raises
    ------
    OutputError
        If the folder cannot be written to.
    """
    case = Case(
        trace, list(explanations), list(attributions),
        metrics=list(metrics), stability=list(stability), heads=list(heads),
    )  # fmt: skip
    return write_cases([case], folder, interrupted=interrupted, progress=progress)


def write_cases(
    cases: Sequence[Case],
    folder: str | os.PathLike[str],
    *,
    title: str = "",
    note: str = "",
    interrupted: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write several runs into one folder; their files carry the number of the run in front.

    `progress` is called with a few words before each explanation is drawn.
    """
    place = output_folder(folder)
    names = _Names(cases)
    try:
        written = _write_numbers(cases, names, place, interrupted)
    except KeyboardInterrupt:
        _write_numbers(cases, names, place, True)  # seconds at most: finish them, then stop
        raise
    for case, stems, heats in zip(cases, names.explanations, names.attributions, strict=True):
        view = view_of(case.trace)
        for explanation, stem in zip(case.explanations, stems, strict=True):
            if progress is not None:
                progress(f"drawing “{explanation.target.text}”")
            lead = f"{stem}-" if stem else ""
            for picture in case.pictures(view, explanation):
                written.append(write_bytes(place / f"{lead}{picture.name}.png", picture.png))
            written += _write_graph(explanation, case.causal_graph(explanation), place, lead)
        for attribution, stem in zip(case.attributions, heats, strict=True):
            written.append(write_bytes(place / f"{stem}.png", case.heat(view, attribution).png))
    if interrupted:
        note = (note + " The run was interrupted; this is what had been found.").strip()
    written.append(report_cases(cases, place / "report.html", title=title, note=note))
    return written


class _Names:
    """File names without their endings, all different: words may occur twice, or look alike.

    Attributes
    ----------
    explanations : list of list of str
        Per case and explanation; empty for the only explanation of a folder.
    attributions : list of list of str
        Per case and attribution; they begin like the files of the explanation of the same target.
    others : list of list of (str, str, object)
        Per case: name of the index's list, file and result of everything else.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self.alone = sum(len(case.explanations) for case in cases) == 1 == len(cases)
        self.explanations: list[list[str]] = []
        self.attributions: list[list[str]] = []
        self.others: list[list[tuple[str, str, Other]]] = []
        self._taken = {Path(INDEX).stem, "report"}
        for number, case in enumerate(cases, start=1):
            lead = f"{number}-" if len(cases) > 1 else ""
            self.explanations.append([self._explanation(lead, e) for e in case.explanations])
        for number, (case, stems) in enumerate(zip(cases, self.explanations, strict=True), start=1):
            lead = f"{number}-" if len(cases) > 1 else ""
            known: dict[tuple[int, ...], str] = {}
            for explanation, stem in zip(case.explanations, stems, strict=True):
                known.setdefault(explanation.target.positions, f"{stem}-" if stem else "")
            self.attributions.append([self._attribution(lead, a, known) for a in case.attributions])
            self.others.append(
                [
                    (kind, self._other(kind, result, known, lead), result)
                    for kind in _OTHERS
                    for result in getattr(case, kind)
                ]
            )

    def _explanation(self, lead: str, explanation: Explanation) -> str:
        if self.alone:
            self._taken.add("pag")
            return ""
        # The graph's JSON is "...-pag.json", which the word "... pag" must not overwrite.
        return self._free(lead + file_stem(explanation.target.text), also="-pag")

    def _attribution(
        self, lead: str, attribution: Attribution, known: dict[tuple[int, ...], str]
    ) -> str:
        target = attribution.target
        start = known.get(target.positions, f"{lead}{file_stem(target.text)}-")
        return self._free(f"{start}heat-{file_stem(attribution.method)}")

    def _other(self, kind: str, result: Other, known: dict[tuple[int, ...], str], lead: str) -> str:
        """Name a result like the explanation of the same target."""
        start, target = lead, result.target
        if target is not None:
            start = known.get(target.positions, f"{lead}{file_stem(target.text)}-")
        return self._free(start + kind)

    def _free(self, wanted: str, also: str = "") -> str:
        name, number = wanted, 2
        while {name, name + also} & self._taken:
            name, number = f"{wanted}-{number}", number + 1
        self._taken |= {name, name + also}
        return name


def _write_numbers(
    cases: Sequence[Case], names: _Names, place: Path, interrupted: bool
) -> list[Path]:
    """Write explanations and attributions as files that can be loaded again."""
    if names.alone:
        written = [cases[0].explanations[0].save(place / INDEX)]
    else:
        written = [
            explanation.save(place / f"{stem}.json")
            for case, stems in zip(cases, names.explanations, strict=True)
            for explanation, stem in zip(case.explanations, stems, strict=True)
        ]
        written.insert(0, write_json(place / INDEX, _index(cases, names, interrupted)))
    written += [
        attribution.save(place / f"{stem}.json")
        for case, stems in zip(cases, names.attributions, strict=True)
        for attribution, stem in zip(case.attributions, stems, strict=True)
    ]
    return written + [
        result.save(place / f"{stem}.json") for more in names.others for _, stem, result in more
    ]


def _index(cases: Sequence[Case], names: _Names, interrupted: bool) -> dict[str, Any]:
    """Return what a reader of several explanations wants to know before opening their files."""
    runs = []
    for case, stems, heats, others in zip(
        cases, names.explanations, names.attributions, names.others, strict=True
    ):
        run = view_of(case.trace).run
        runs.append(
            {
                "name": case.name,
                "note": case.note,
                "model_id": run.model_id,
                "prompt": run.prompt,
                "answer": run.answer,
                "explanations": [
                    _summary(e, f"{stem}.json")
                    for e, stem in zip(case.explanations, stems, strict=True)
                ],
                "attributions": [
                    {"file": f"{stem}.json", "method": a.method, "target": asdict(a.target)}
                    for a, stem in zip(case.attributions, heats, strict=True)
                ],
                **{
                    kind: [{"file": f"{stem}.json"} for which, stem, _ in others if which == kind]
                    for kind in _OTHERS
                },
            }
        )
    return {"kind": "explanations", "format": 1, "interrupted": interrupted, "runs": runs}


def _summary(explanation: Explanation, file: str) -> dict[str, Any]:
    """Return an explanation without the evidence: no graphs, no trace, no image."""
    heavy = ("kind", "format", "graphs", "trace", "excluded", "versions")
    kept = {name: v for name, v in explanation.to_dict().items() if name not in heavy}
    return {"file": file, **kept}


def _write_graph(
    explanation: Explanation, causal: CausalGraph | None, place: Path, lead: str
) -> list[Path]:
    """Export the graph that is drawn, for other programs.

    Where there is a causal graph, the PAG is the reconciled one, and GraphML and DOT say which
    edges were verified.
    """
    if causal is not None and causal.pag is not None:
        file = causal.to_graphml(place / f"{lead}pag.graphml")
        return [
            write_bytes(place / f"{lead}pag.dot", to_utf8(causal.to_dot())),
            write_bytes(
                place / f"{lead}pag.json", to_utf8(causal.pag.to_json(list(causal.labels)))
            ),
            Path(file),
        ]
    graph = explanation.head_graph
    if graph is None:
        return []
    pag, labels = graph.structure.pag, list(graph.labels)
    path = place / f"{lead}pag.graphml"
    pag.to_graphml(path, labels)
    return [
        write_bytes(place / f"{lead}pag.dot", to_utf8(pag.to_dot(labels))),
        write_bytes(place / f"{lead}pag.json", to_utf8(pag.to_json(labels))),
        path,
    ]
