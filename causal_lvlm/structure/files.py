"""Read a graph from a file, whatever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.fields import many, maybe, plain, record, text, whole
from causal_lvlm.storage import parse_json, read_bytes
from causal_lvlm.structure.graphml import from_graphml
from causal_lvlm.structure.named import NamedGraph, named_from_dict
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.texts import from_pcalg, from_tetrad

if TYPE_CHECKING:
    import os

__all__ = ["read_graph"]


def read_graph(path: str | os.PathLike[str], kind: str | None = None) -> NamedGraph:
    """Read a graph.

    Parameters
    ----------
    path : path_like
        ``.json``: what `PAG.to_json` or `LearnedStructure.save` wrote, or an object with ``marks``
        (N, N) and, if nodes have names, ``names``. ``.graphml``: what `PAG.to_graphml` wrote, or
        any directed graph. Anything else is text: Tetrad's, or a matrix of pcalg.
    kind : {"pag", "cpdag"}, optional
        Needed only for a pcalg matrix that does not say its coding.

    Raises
    ------
    StructureError
        If the file holds no graph.
    OutputError
        If it cannot be read.
    """
    file = Path(path)
    data = read_bytes(file)
    try:
        suffix = file.suffix.lower()
        if suffix == ".graphml":
            return from_graphml(data)
        if suffix == ".json":
            return _from_json(parse_json(data), file)
        words = data.decode("utf-8-sig")
        return from_tetrad(words) if "Graph Nodes:" in words else from_pcalg(words, kind)
    except UnicodeDecodeError as error:
        raise OutputError(f"cannot read a graph from {str(path)!r}: {error}") from error
    except ValueError as error:  # StructureError among them
        raise StructureError(f"{str(path)!r} holds no graph: {error}") from error


_MARKS = record(
    {"marks": many(many(whole(0, 3))), "names": maybe(many(plain)), "kind": maybe(text)},
    {"names", "kind"},
)


def _from_json(value: Any, file: Path) -> NamedGraph:
    if isinstance(value, dict) and value.get("kind") == "learned_structure":
        learned = LearnedStructure.load(file)
        names = learned.names or tuple(str(k) for k in range(learned.n_nodes))
        return NamedGraph(learned.pag, names, learned.kind)
    if isinstance(value, dict) and "marks" in value:
        try:
            found = _MARKS(value, "")
        except OutputError as error:
            raise StructureError(str(error)) from error
        pag = PAG([list(row) for row in found["marks"]])  # type: ignore[arg-type]
        given = found.get("names") or range(pag.n_nodes)
        return NamedGraph(pag, tuple(str(name) for name in given), found.get("kind"))
    if not isinstance(value, dict) or "nodes" not in value:
        raise StructureError("neither nodes and edges nor marks")
    return named_from_dict(value)
