"""Which module of the project imports which, read from the sources: nothing is executed.

`imports_of` gives the imports of one source with their kind: ``"top"`` (when the module is loaded),
``"lazy"`` (inside a function) or ``"typing"`` (below ``if TYPE_CHECKING``). `import_graph` keeps
those between modules of the project, `circles` and `room_of` are what the tests ask about it.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import networkx as nx

ROOT = Path(__file__).resolve().parents[1]


class Import(NamedTuple):
    """One imported module: its full name, ``"top"``, ``"lazy"`` or ``"typing"``, and the line."""

    module: str
    kind: str
    line: int


def module_name(file: Path) -> str:
    """Return what a file of the package, or of the kernels, is imported as."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(file): file
    for folder in ("causal_lvlm", "kernels/causal_kernels")
    for file in sorted((ROOT / folder).rglob("*.py"))
}


def room_of(module: str) -> str:
    """Return the first folder or module below the package: ``lvlm``, ``tokens``.

    The kernels are one room, ``causal_kernels``; the package's own module is ``__init__``.
    """
    package, _, rest = module.partition(".")
    return package if package == "causal_kernels" else rest.partition(".")[0] or "__init__"


def imports_of(source: str, known: Collection[str] = MODULES) -> list[Import]:
    """Return what a source imports; ``from a import b`` means ``a.b`` if that is a known module."""
    found = []
    for node, kind in _import_nodes(ast.parse(source), "top"):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            if node.level:
                raise ValueError(f"line {node.lineno}: imports are written in full")
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [f if f in known else str(node.module) for f in full]
        found += [Import(name, kind, node.lineno) for name in dict.fromkeys(names)]
    return found


def _import_nodes(node: ast.AST, kind: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, kind
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        for inner in node.body:
            yield from _import_nodes(inner, "typing")
        for inner in node.orelse:
            yield from _import_nodes(inner, kind)
    else:
        if kind == "top" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "lazy"
        for inner in ast.iter_child_nodes(node):
            yield from _import_nodes(inner, kind)


def import_graph(sources: Mapping[str, str] | None = None) -> nx.DiGraph:
    """Return the imports among some modules (all by default), ``imports`` at each arc."""
    if sources is None:
        sources = {name: file.read_text(encoding="utf-8") for name, file in MODULES.items()}
    graph = nx.DiGraph()
    graph.add_nodes_from(sources)
    for name, source in sources.items():
        for one in imports_of(source, sources):
            if one.module in sources and one.module != name:
                if not graph.has_edge(name, one.module):
                    graph.add_edge(name, one.module, imports=[])
                graph.edges[name, one.module]["imports"].append(one)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Return the import circles, lazy and type-checking imports included."""
    return sorted(sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1)
