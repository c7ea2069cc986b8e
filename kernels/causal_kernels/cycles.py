"""R5: which o-o edges lie on a cycle of o-o edges without a shielded triple.

Zhang, On the completeness of orientation rules for causal discovery in the presence of latent
confounders and selection bias, Artificial Intelligence 172 (2008), section 3. With its edge
A o-o B, the uncovered circle path of R5 is such a cycle of at least four nodes, and all its edges
become undirected.

Each edge A o-o B is decided by the first of these that settles it:

- States are directed o-o edges u->v; v->w follows u->v if u and w are not adjacent. An edge on a
  cycle has its state in a strongly connected component with others. In a chordal circle graph,
  which is what there is without selection, no state has: the rule ends here, at the cost of one
  depth-first search, the sum of the squared degrees.
- A shortest path from B to A around their other neighbours has no chord of circles, so mostly it is
  a cycle of the rule, and settles all edges on it. One search over nodes.
- The shortest walk of states back to A->B. It is a cycle if it meets no node twice.
- If it does: paths are extended one node at a time, with the same search from their end, which cuts
  off ends that cannot return. This part has exponential cases, so each edge has a budget of steps;
  an edge that uses it up keeps its circles, which is never wrong, and is counted.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import CIRCLE, NONE

__all__ = ["rule_5"]


@kernel
def _circle_lists(marks, start, neighbour):
    """Return the o-o edges: (start (N + 1,), source (M,), target (M,), reverse (M,)), int64."""
    n = marks.shape[0]
    first = np.zeros(n + 1, np.int64)
    for i in range(n):
        count = 0
        for k in range(start[i], start[i + 1]):
            j = neighbour[k]
            if marks[i, j] == CIRCLE and marks[j, i] == CIRCLE:
                count += 1
        first[i + 1] = first[i] + count
    source = np.empty(first[n], np.int64)
    target = np.empty(first[n], np.int64)
    reverse = np.empty(first[n], np.int64)
    filled = first[:n].copy()
    m = 0
    for i in range(n):
        for k in range(start[i], start[i + 1]):
            j = neighbour[k]
            if marks[i, j] == CIRCLE and marks[j, i] == CIRCLE:
                source[m] = i
                target[m] = j
                # i ascends, so it meets the list of j in the order in which that is sorted
                reverse[m] = filled[j]
                filled[j] += 1
                m += 1
    return first, source, target, reverse


@kernel
def _components(marks, first, source, target):
    """Return int64 (M,): the strongly connected component of each state, -1 if it is alone.

    Tarjan, Depth-first search and linear graph algorithms, SIAM J. Comput. 1 (1972), without
    recursion.
    """
    count = len(source)
    component = np.full(count, -1, np.int64)
    number = np.full(count, -1, np.int64)
    low = np.zeros(count, np.int64)
    cursor = np.zeros(count, np.int64)
    waiting = np.empty(count, np.int64)
    on_waiting = np.zeros(count, np.uint8)
    call = np.empty(count, np.int64)
    n_waiting = 0
    met = 0
    for root in range(count):
        if number[root] >= 0:
            continue
        depth = 0
        call[0] = root
        while depth >= 0:
            s = call[depth]
            v = target[s]
            if number[s] < 0:
                number[s] = met
                low[s] = met
                met += 1
                cursor[s] = first[v]
                waiting[n_waiting] = s
                on_waiting[s] = 1
                n_waiting += 1
            deeper = False
            while cursor[s] < first[v + 1]:
                t = cursor[s]
                cursor[s] += 1
                w = target[t]
                if w == source[s] or marks[source[s], w] != NONE:
                    continue
                if number[t] < 0:
                    depth += 1
                    call[depth] = t
                    deeper = True
                    break
                if on_waiting[t] == 1:
                    low[s] = min(low[s], number[t])
            if deeper:
                continue
            if low[s] == number[s]:
                alone = waiting[n_waiting - 1] == s
                while True:
                    n_waiting -= 1
                    t = waiting[n_waiting]
                    on_waiting[t] = 0
                    component[t] = -1 if alone else s
                    if t == s:
                        break
            depth -= 1
            if depth >= 0:
                low[call[depth]] = min(low[call[depth]], low[s])
    return component


@kernel
def _write_walk(found, first, source, target, reverse, before, last, a):
    """Set ``found`` along a walk of states that ends with ``last``, and on its way back to a."""
    for t in range(first[target[last]], first[target[last] + 1]):
        if target[t] == a:
            found[t] = 1
            found[reverse[t]] = 1
    while last != -1:
        found[last] = 1
        found[reverse[last]] = 1
        last = before[last]


@kernel
def _around(marks, first, source, target, edge, before, queue, node_seen, stamp):
    """Search a shortest cycle through A->B that avoids all other neighbours of both (see top).

    Returns its last state but the one back to A, readable backwards along ``before`` int64 (M,),
    or -1 if there is none or one of its triples is shielded by an edge that is not o-o.
    ``node_seen`` int64 (N,) holds stamps, ``queue`` int64 (M,) is work.
    """
    a = source[edge]
    b = target[edge]
    before[edge] = -1
    queue[0] = edge
    head = 0
    tail = 1
    while head < tail:
        s = queue[head]
        head += 1
        v = target[s]
        if v != b and marks[a, v] != NONE:
            # a circle neighbour of A that is none of B: back at A. Nodes before it are none of A
            last = s
            while s != edge:
                if before[s] != edge and marks[source[before[s]], target[s]] != NONE:
                    return -1
                s = before[s]
            return last
        for t in range(first[v], first[v + 1]):
            w = target[t]
            if w == a or w == b or node_seen[w] == stamp:
                continue
            if v == b:
                if marks[a, w] != NONE:
                    continue
            elif marks[b, w] != NONE:
                continue
            elif marks[a, w] != NONE and (marks[a, w] != CIRCLE or marks[w, a] != CIRCLE):
                continue
            node_seen[w] = stamp
            before[t] = s
            queue[tail] = t
            tail += 1
    return -1


@kernel
def _walk_back(
    marks, first, source, target, component, edge, begin, on_path, seen, stamp, before, queue,
    node_seen,
):  # fmt: skip
    """Search the shortest uncovered walk from state ``begin`` back to A, for ``edge`` A->B.

    The walk avoids the nodes in ``on_path`` and closes over C->A only if the triples at C, at A
    and at B are unshielded. Returns (last state or -1, 1 if it meets no node twice, steps); the
    walk is read backwards along ``before`` int64 (M,). ``seen`` int64 (M,) and ``node_seen`` int64
    (N,) hold stamps, ``queue`` int64 (M,) is work.
    """
    a = source[edge]
    b = target[edge]
    queue[0] = begin
    seen[begin] = stamp
    before[begin] = -1
    head = 0
    tail = 1
    steps = 0
    while head < tail:
        s = queue[head]
        head += 1
        u = source[s]
        v = target[s]
        for t in range(first[v], first[v + 1]):
            w = target[t]
            steps += 1
            if component[t] != component[edge] or u == w or marks[u, w] != NONE:
                continue
            if w == a:
                if v == b or marks[v, b] != NONE:
                    continue
                simple = 1
                at = s
                while at != -1:
                    if node_seen[target[at]] == stamp:
                        simple = 0
                        break
                    node_seen[target[at]] = stamp
                    at = before[at]
                return s, simple, steps
            if on_path[w] == 1 or seen[t] == stamp:
                continue
            seen[t] = stamp
            before[t] = s
            queue[tail] = t
            tail += 1
    return -1, 0, steps


@kernel
def _extend_paths(
    marks, first, source, target, reverse, component, edge, budget, found, seen, stamp, before,
    queue, node_seen, on_path, path, cursor,
):  # fmt: skip
    """Search any cycle through A->B by extending paths, and write it to ``found``.

    ``on_path`` uint8 (N,) is 0 before and after; ``path`` and ``cursor`` int64 (N + 1,) are work.
    Returns (1 found, 0 none, -1 the budget was used up; the next free stamp).
    """
    on_path[source[edge]] = 1
    status = 0
    steps = 0
    depth = 0
    path[0] = edge
    cursor[0] = -1
    while depth >= 0:
        s = path[depth]
        v = target[s]
        if cursor[depth] < 0:
            on_path[v] = 1
            cursor[depth] = first[v]
            last, simple, cost = _walk_back(
                marks, first, source, target, component, edge, s, on_path, seen, stamp, before,
                queue, node_seen,
            )  # fmt: skip
            stamp += 1
            steps += cost
            if simple == 1:
                _write_walk(found, first, source, target, reverse, before, last, source[edge])
                for k in range(depth):
                    found[path[k]] = 1
                    found[reverse[path[k]]] = 1
                status = 1
                break
            if steps > budget:
                status = -1
                break
            if last < 0:
                cursor[depth] = first[v + 1]
        deeper = False
        while cursor[depth] < first[v + 1]:
            t = cursor[depth]
            cursor[depth] += 1
            w = target[t]
            if component[t] != component[edge] or on_path[w] == 1:
                continue
            if marks[source[s], w] == NONE:
                depth += 1
                path[depth] = t
                cursor[depth] = -1
                deeper = True
                break
        if not deeper:
            on_path[v] = 0
            depth -= 1
    on_path[source[edge]] = 0
    for k in range(depth + 1):
        on_path[target[path[k]]] = 0
    return status, stamp


@kernel
def rule_5(marks, start, neighbour, budget):
    """If A o-o B is on a cycle of o-o edges without shielded triples: orient A - B.

    Returns (found uint8 (M,), source int64 (M,), target int64 (M,), given up): the o-o edges in
    both directions, 1 where the rule holds, and the number of edges whose search used up
    ``budget``. Writes nothing.
    """
    n = marks.shape[0]
    first, source, target, reverse = _circle_lists(marks, start, neighbour)
    count = len(source)
    found = np.zeros(count, np.uint8)
    component = _components(marks, first, source, target)
    seen = np.full(count, -1, np.int64)
    before = np.empty(count, np.int64)
    queue = np.empty(count, np.int64)
    node_seen = np.full(n, -1, np.int64)
    on_path = np.zeros(n, np.uint8)
    path = np.empty(n + 1, np.int64)
    cursor = np.empty(n + 1, np.int64)
    stamp = np.int64(0)
    given_up = 0
    for edge in range(count):
        if component[edge] < 0 or found[edge] == 1 or source[edge] > target[edge]:
            continue
        last = _around(marks, first, source, target, edge, before, queue, node_seen, stamp)
        stamp += 1
        if last >= 0:
            _write_walk(found, first, source, target, reverse, before, last, source[edge])
            continue
        status, stamp = _extend_paths(
            marks, first, source, target, reverse, component, edge, budget, found, seen, stamp,
            before, queue, node_seen, on_path, path, cursor,
        )  # fmt: skip
        if status < 0:
            given_up += 1
    return found, source, target, given_up
