"""Reading GraphML from anywhere: what a graph needs of it, and no entity is ever expanded."""

from __future__ import annotations

from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

import networkx as nx

from causal_lvlm.errors import StructureError
from causal_lvlm.structure.named import NamedGraph, from_networkx

__all__ = ["from_graphml"]


def from_graphml(data: bytes) -> NamedGraph:
    """Read the first graph of a GraphML document; labels as yEd writes them count too.

    Raises
    ------
    StructureError
        If it is no XML, declares entities, has no graph, data of a key that it does not declare, or
        what is no PAG or CPDAG (see `causal_lvlm.structure.named.from_networkx`).
    """
    root = _parsed(data)
    keys = {one.get("id"): one.get("attr.name") for one in _inside(root, "key")}
    graphs = _inside(root, "graph")
    if _name(root) != "graphml" or not graphs:
        raise StructureError("the document has no <graph> inside <graphml>")
    element = graphs[0]
    if _inside(element, "hyperedge"):
        raise StructureError("a graph with hyperedges is no PAG or CPDAG")
    directed = element.get("edgedefault") == "directed"
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.graph.update(_values(element, keys))
    for node in _inside(element, "node"):
        graph.add_node(_given(node, "id"), **_labels(node, keys))
    for edge in _inside(element, "edge"):
        ends = _given(edge, "source"), _given(edge, "target")
        if edge.get("directed", str(directed).lower()) != str(directed).lower():
            raise StructureError("directed and undirected edges are mixed in one graph")
        if graph.has_edge(*ends):
            raise StructureError("a graph with parallel edges (multigraph) is no PAG or CPDAG")
        graph.add_edge(*ends, **_values(edge, keys))
    return from_networkx(graph)


def _parsed(data: bytes) -> ElementTree.Element:
    def refused(*_: object) -> NoReturn:
        raise StructureError("the document declares entities, which are not expanded here")

    tree = ElementTree.TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.EntityDeclHandler = refused
    parser.StartElementHandler, parser.EndElementHandler = tree.start, tree.end
    parser.CharacterDataHandler = tree.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # or an unknown encoding
        if isinstance(error, StructureError):
            raise
        raise StructureError(f"no XML ({error})") from error
    return tree.close()


def _name(element: ElementTree.Element) -> str:
    """Return the name of a tag without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _inside(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [child for child in element if _name(child) == name]


def _given(element: ElementTree.Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise StructureError(f"a <{_name(element)}> has no {name!r}")
    return value


def _values(element: ElementTree.Element, keys: dict[str | None, str | None]) -> dict[str, str]:
    """Return the data of an element by name."""
    found = {}
    for data in _inside(element, "data"):
        name = keys.get(data.get("key"))
        if name is None and not len(data):
            raise StructureError(f"data of the key {data.get('key')!r}, which is not declared")
        if name is not None:
            found[name] = data.text or ""
    return found


def _labels(node: ElementTree.Element, keys: dict[str | None, str | None]) -> dict[str, str]:
    texts = [one.text for one in node.iter() if _name(one) == "NodeLabel" and one.text]
    drawn = {"label": texts[0].strip()} if texts else {}
    return {**_values(node, keys), **drawn}
