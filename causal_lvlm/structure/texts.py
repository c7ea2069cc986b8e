"""Graphs as text for R's pcalg and for Tetrad, and back.

**pcalg**: the adjacency matrix ``amat`` as R reads it with
``as.matrix(read.table(file, check.names = FALSE))``: comment lines that name the coding, one line
of quoted column names, then one line per node with its quoted name and N numbers. There are two
codings (manual of pcalg, ``amatType``), and they are transposed to each other:

1. ``amat.pag``, for PAGs: the entry in row i, column j is the mark **at j**; 0 no edge, 1 circle,
   2 arrowhead, 3 tail. It is `PAG.marks` as it is.
2. ``amat.cpdag``, for CPDAGs: the entry in row i, column j is 1 if the mark **at i** is an
   arrowhead or the edge is undirected, else 0; so ``i --> j`` is 0 at (i, j) and 1 at (j, i).

**Tetrad**: ``Graph Nodes:``, the names separated by semicolons, ``Graph Edges:``, and numbered
lines such as ``1. X1 o-> X2``. Tetrad splits at white space, commas and semicolons, so these become
``_`` in names, and names that are then the same get a number. Edges may carry properties after the
second name (``nl``, ``dd``, bootstrap frequencies); they are skipped when reading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from causal_lvlm.errors import StructureError
from causal_lvlm.structure.marks import (
    ARROW,
    CIRCLE,
    TAIL,
    check_kind,
    edge_symbol,
    edges,
    empty_marks,
    node_texts,
)
from causal_lvlm.structure.named import NamedGraph
from causal_lvlm.structure.pag import PAG

__all__ = ["from_pcalg", "from_tetrad", "tetrad_names", "to_pcalg", "to_tetrad"]

_CODINGS = {
    "pag": "amat.pag: row i, column j holds the mark at j; 0 none, 1 circle, 2 arrowhead, 3 tail",
    "cpdag": "amat.cpdag: 1 in row i, column j is an arrowhead at i; 1 both ways is undirected",
}
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_EDGE = re.compile(r"\d+\.\s+(\S+)\s+([<o-])-([>o-])\s+(\S+)(?:\s.*)?")
_HEADING = re.compile(r"graph (nodes|edges|(node |edge )?attributes):", re.IGNORECASE)
_MARKS = {"o": CIRCLE, "<": ARROW, ">": ARROW, "-": TAIL}


def to_pcalg(pag: PAG, labels: Sequence[str] | None = None, *, kind: str = "pag") -> str:
    """Return the adjacency matrix of pcalg as text.

    Raises
    ------
    StructureError
        If labels do not fit or repeat, or the graph is not of this kind.

    Examples
    --------
    >>> print(to_pcalg(PAG([[0, 2], [1, 0]]), ["rain", "wet"]), end="")
    # pcalg amat.pag: row i, column j holds the mark at j; 0 none, 1 circle, 2 arrowhead, 3 tail
    # in R: amat <- as.matrix(read.table(FILE, check.names = FALSE))
    "rain" "wet"
    "rain" 0 2
    "wet" 1 0
    """
    names = NamedGraph(pag, tuple(node_texts(pag, labels)), kind).names
    matrix = pag.marks
    if kind == "cpdag":
        undirected = (pag.marks == TAIL) & (pag.marks.T == TAIL)
        matrix = ((pag.marks == ARROW) | undirected).T
    quoted = [_quoted(name) for name in names]
    rows = [
        " ".join([name, *(str(int(k)) for k in row)])
        for name, row in zip(quoted, matrix, strict=True)
    ]
    head = [
        f"# pcalg {_CODINGS[kind]}",
        "# in R: amat <- as.matrix(read.table(FILE, check.names = FALSE))",
    ]
    return "\n".join([*head, " ".join(quoted), *rows]) + "\n"


def _quoted(name: str) -> str:
    name = name.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + name.replace("\n", "\\n").replace("\r", "\\r") + '"'


def _unquoted(text: str) -> str:
    return re.sub(
        r"\\(.)", lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), text, flags=re.S
    )


def from_pcalg(text: str, kind: str | None = None) -> NamedGraph:
    """Invert `to_pcalg`; read also what R's ``write.table`` makes of such a matrix.

    Parameters
    ----------
    text : str
    kind : {"pag", "cpdag"}, optional
        Which coding; needed only if no comment line names it.

    Raises
    ------
    StructureError
        If the text is no such matrix.
    """
    # not splitlines: names may hold the rarer line separators of Unicode
    lines = [line for line in re.split(r"\r?\n", text) if line.strip()]
    comments = " ".join(line for line in lines if line.lstrip().startswith("#"))
    said = next((name for name in _CODINGS if f"amat.{name}" in comments), None)
    kind = kind or said
    if kind is None:
        raise StructureError(
            "the text does not say whether it is 'amat.pag' or 'amat.cpdag' (transposed codings "
            "of pcalg); give kind='pag' or kind='cpdag', or a first line '# pcalg amat.pag'"
        )
    if kind not in _CODINGS:
        raise StructureError(f"kind must be 'pag' or 'cpdag', not {kind!r}")
    rows = [_fields(line) for line in lines if not line.lstrip().startswith("#")]
    n = len(rows) - 1
    if n < 1 or len(rows[0]) != n or any(len(row) != n + 1 for row in rows[1:]):
        raise StructureError(
            "a pcalg matrix has one line of N names, then N lines of a name and N numbers; the "
            f"lines have {[len(row) for row in rows[:6]]} entries"
        )
    names = rows[0]
    if [row[0] for row in rows[1:]] != names:
        raise StructureError("rows and columns of a pcalg matrix must have the same names")
    try:
        matrix = np.array([[int(entry) for entry in row[1:]] for row in rows[1:]])
    except ValueError as error:
        raise StructureError(f"a pcalg matrix holds whole numbers: {error}") from error
    if kind == "cpdag":
        if not np.isin(matrix, (0, 1)).all():
            raise StructureError("amat.cpdag holds 0 and 1 only; is it an amat.pag?")
        head = matrix.T == 1  # [i, j]: an arrowhead at j, or half of an undirected edge
        matrix = np.where(head & ~head.T, ARROW, np.where(head | head.T, TAIL, 0))
    return NamedGraph(PAG(matrix), tuple(names), kind)


def _fields(line: str) -> list[str]:
    found = _QUOTED.finditer(line)
    return [_unquoted(part[1]) if part[1] is not None else part[2] for part in found]


def tetrad_names(names: Sequence[str]) -> list[str]:
    """Return names that Tetrad can read, all different."""
    taken: set[str] = set()
    plain = []
    for name in names:
        base = re.sub(r"[\s,;]", "_", name) or "_"
        candidate, number = base, 2
        while candidate in taken:
            candidate, number = f"{base}_{number}", number + 1
        taken.add(candidate)
        plain.append(candidate)
    return plain


def to_tetrad(pag: PAG, labels: Sequence[str] | None = None, *, kind: str = "pag") -> str:
    """Return the graph as Tetrad's graph text (which does not say the kind).

    Raises
    ------
    StructureError
        If labels do not fit, or the graph is not of this kind.

    Examples
    --------
    >>> print(to_tetrad(PAG([[0, 2], [1, 0]]), ["rain", "wet grass"]), end="")
    Graph Nodes:
    rain;wet_grass
    <BLANKLINE>
    Graph Edges:
    1. rain o-> wet_grass
    """
    check_kind(pag, kind)
    names = tetrad_names(node_texts(pag, labels))
    lines = ["Graph Nodes:", ";".join(names), "", "Graph Edges:"]
    for number, (i, j) in enumerate(edges(pag), start=1):
        # Edges point to the right, and circle and tail are `--o`: causal-learn's reader of this
        # format drops `o--` without a word.
        if (pag.marks[i, j], pag.marks[j, i]) in ((CIRCLE, ARROW), (TAIL, ARROW), (TAIL, CIRCLE)):
            i, j = j, i
        lines.append(f"{number}. {names[i]} {edge_symbol(pag, i, j)} {names[j]}")
    return "\n".join(lines) + "\n"


def from_tetrad(text: str) -> NamedGraph:
    """Read Tetrad's graph text.

    Raises
    ------
    StructureError
        If the text has no nodes or edges, or an edge names an unknown node or comes twice.
    """
    names, found = _tetrad_parts(text)
    if not names:
        raise StructureError("no Tetrad graph: a line 'Graph Nodes:' and the names are missing")
    number = {name: node for node, name in enumerate(names)}
    marks = empty_marks(len(names))
    for left, at_left, at_right, right in found:
        unknown = [name for name in (left, right) if name not in number]
        if unknown:
            raise StructureError(f"an edge names {unknown[0]!r}, which is none of the nodes")
        i, j = number[left], number[right]
        if marks[i, j] or i == j:
            raise StructureError(f"there is more than one edge between {left!r} and {right!r}")
        marks[j, i], marks[i, j] = _MARKS[at_left], _MARKS[at_right]
    return NamedGraph(PAG(marks), tuple(names))


def _tetrad_parts(text: str) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the names of nodes, and (name, left mark, right mark, name) of each edge."""
    names: list[str] = []
    section = ""
    found: list[tuple[str, ...]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        # Below "Graph Nodes:" a line may end in ":" because a name does; sections after the edges
        # have many titles ("Ambiguous triples (...):"), and edges begin with a number.
        other = line.endswith(":") and not line[0].isdigit() and section != "graph nodes"
        if other or _HEADING.fullmatch(line):
            section = line.removesuffix(":").lower()
        elif section == "graph nodes":
            names += [name.strip() for name in re.split("[;,]", line) if name.strip()]
        elif section == "graph edges":
            edge = _EDGE.fullmatch(line)
            if edge is None:
                raise StructureError(
                    f"not an edge of a Tetrad graph: {line!r}; edges look like '1. X1 o-> X2'"
                )
            found.append(edge.groups())
    return names, found
