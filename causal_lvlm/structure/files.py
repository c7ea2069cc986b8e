"""Read a graph from a file, whatever wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.structure.export import from_networkx, named_from_dict
from causal_lvlm.structure.named import NamedGraph
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
    try:
        if file.suffix.lower() == ".graphml":
            return from_networkx(nx.read_graphml(file))
        text = file.read_text(encoding="utf-8")
        if file.suffix.lower() == ".json":
            return _from_json(json.loads(text), file)
        return from_tetrad(text) if "Graph Nodes:" in text else from_pcalg(text, kind)
    except StructureError as error:
        raise StructureError(f"{str(path)!r} holds no graph: {error}") from error
    except OutputError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read a graph from {str(path)!r}: {error}") from error
    except (ValueError, SyntaxError, nx.NetworkXError) as error:  # JSON, XML, GraphML
        raise StructureError(f"{str(path)!r} holds no graph: {error}") from error


def _from_json(value: Any, file: Path) -> NamedGraph:
    if isinstance(value, dict) and value.get("kind") == "learned_structure":
        learned = LearnedStructure.load(file)
        names = learned.names or tuple(str(k) for k in range(learned.n_nodes))
        return NamedGraph(learned.pag, names, learned.kind)
    if isinstance(value, dict) and "marks" in value:
        pag = PAG(np.array(value["marks"]))  # type: ignore[arg-type]
        given = value.get("names") or range(pag.n_nodes)
        return NamedGraph(pag, tuple(str(name) for name in given), value.get("kind"))
    if not isinstance(value, dict) or "nodes" not in value:
        raise StructureError("neither nodes and edges nor marks")
    return named_from_dict(value)
