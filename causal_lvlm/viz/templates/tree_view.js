// The PDS-tree of the target: rings by radius, a node once for every way to reach it. Every node
// stands in the middle of the angles of the leaves below it, so branches stay apart.

function leafAngles(parents, depths) {
  const leaves = parents.map(() => 0);
  for (let at = parents.length - 1; at >= 0; at -= 1) {
    leaves[at] = Math.max(leaves[at], 1 / Math.max(1, depths[at])); // inner rings are shorter
    if (at) leaves[parents[at]] += leaves[at];
  }
  const start = parents.map(() => 0);
  const used = parents.map(() => 0);
  for (let at = 1; at < parents.length; at += 1) {
    const above = parents[at];
    start[at] = start[above] + used[above];
    used[above] += leaves[at];
  }
  return parents.map((_, at) => (2 * Math.PI * (start[at] + leaves[at] / 2)) / leaves[0] - Math.PI / 2);
}

function treeView(run, explanation, state, panel, redraw) {
  const graph = explanation.graphs[state.graph];
  if (!graph) {
    panel.append(h("p", {}, `There is no graph: ${explanation.graphNote || "no head has one"}.`));
    return;
  }
  const deepest = Math.max(1, ...graph.reach.map(([, d]) => d));
  state.radius = Math.min(state.radius, deepest);
  const drawing = h("div", { class: "drawing tree" });
  const info = h("p", { class: "small", "aria-live": "polite" });
  panel.append(h("div", { class: "controls" },
    slider("Radius", 1, deepest, state.radius, (r) => `${r} of ${deepest}`, (r) => {
      state.radius = r;
      draw();
    })), info, drawing);
  if (explanation.graphs.length > 1) panel.append(headStrip(run, explanation, state, redraw));

  function draw() {
    const keep = graph.tree.depth.map((d) => d <= state.radius);
    const rows = graph.tree.node.map((node, at) => ({ node, parent: graph.tree.parent[at], depth: graph.tree.depth[at] }))
      .filter((_, at) => keep[at]); // breadth-first: indices of parents stay valid
    const different = new Set(rows.slice(1).map((r) => r.node)).size;
    info.textContent = rows.length > 1
      ? `${plural(different, "different node")}, drawn ${rows.length - 1} times: once per way to reach them. `
        + `The whole tree has ${plural(graph.total.tree, "occurrence")}. Lines are steps of possible-d-sep paths; they carry no edge marks.`
      : "The target has no neighbour in this graph: its PDS-tree is empty.";
    drawing.replaceChildren(drawRings(run, explanation, graph, rows, state.radius,
      Math.min(260 + 160 * (deepestOf(rows) - 1) + 8 * rows.length, 760, Math.max(280, drawing.clientWidth))));
  }
  draw();
}

const deepestOf = (rows) => Math.max(1, ...rows.map((r) => r.depth));

function drawRings(run, explanation, graph, rows, radius, width) {
  const view = seenNodes(graph, explanation, { ...state0, radius, graph: 0, shares: new Map() });
  const angles = leafAngles(rows.map((r) => r.parent), rows.map((r) => r.depth));
  const deepest = deepestOf(rows);
  const most = Math.max(1, ...[...Array(deepest)].map((_, d) => rows.filter((r) => r.depth === d + 1).length));
  const ring = (width / 2 - 52) / deepest;
  const room = (2 * Math.PI * ring * deepest) / most;
  const named = room * 0.94 - 16; // with its name below it
  const tile = Math.max(18, Math.min(46, ring * 0.6, named >= 30 ? named : Math.min(29, room * 0.75)));
  const svg = s("svg", { class: "stage rings", width, height: width, viewBox: `0 0 ${width} ${width}`, role: "img",
    "aria-label": `PDS-tree of “${explanation.text}” up to radius ${radius}` });
  const centre = width / 2;
  for (let d = deepest; d >= 1; d -= 1) {
    svg.append(s("circle", { cx: centre, cy: centre, r: ring * d, class: "ring" }));
  }
  const spots = rows.map((row, at) => ({ x: centre + Math.cos(angles[at]) * ring * row.depth,
    y: centre + Math.sin(angles[at]) * ring * row.depth }));
  rows.forEach((row, at) => {
    if (!at) return;
    const above = spots[row.parent];
    svg.append(s("line", { x1: above.x, y1: above.y, x2: spots[at].x, y2: spots[at].y, class: "branch" }));
  });
  const names = [];
  for (let d = 1; d <= deepest; d += 1) names.push(freeSpot(centre, ring * d, tile / 2, spots, names));
  rows.forEach((row, at) => svg.append(treeNode(run, explanation, graph, row, spots[at], tile, view)));
  names.forEach(({ x, y }, at) => svg.append(s("text", { x, y: y + 4, class: "row-name ring-name" }, `radius ${at + 1}`)));
  return svg;
}

/** The place on a ring, or just outside it, that is farthest from all nodes: its name stands there. */
function freeSpot(centre, r, half, spots, taken) {
  let best = null;
  for (const out of [0, half + 14, half + 24]) {
    for (let k = 0; k < 120; k += 1) {
      const angle = (2 * Math.PI * k) / 120 - Math.PI / 4;
      const x = centre + (r + out) * Math.cos(angle);
      const y = centre + (r + out) * Math.sin(angle);
      if (Math.abs(x - centre) > centre - 30 || Math.abs(y - centre) > centre - 8) continue;
      const gap = (o, wide, high, below) => Math.hypot(Math.max(0, Math.abs(x - o.x) - wide - 28),
        Math.max(0, o.y - y - high - 8, y - o.y - high - below - 8));
      const far = Math.min(12, ...spots.map((o) => gap(o, half, half, 14)), ...taken.map((o) => gap(o, 28, 8, 0)));
      if (!best || far > best.far + 1e-6) best = { x, y, far }; // on the ring rather than outside
    }
  }
  return best;
}

/** A patch as the piece of the image it stands for, a word as the word. */
function treeNode(run, explanation, graph, row, spot, tile, view) {
  const node = graph.nodes[row.node];
  const members = node[0];
  const target = row.node === graph.target;
  const kind = target ? "target" : view.numberOf(node) ? "cause" : "word";
  const title = s("title", {}, nodeText(run, explanation, graph, row.node) + (target ? "" : `, radius ${row.depth}`));
  const cell = !target && isImage(run, members[0]) ? run.cells.find(([p]) => p === members[0]) : null;
  if (cell) {
    const last = run.cells.find(([p]) => p === members.at(-1)) || cell;
    const box = [cell[2], cell[3], last[4] - cell[2], last[5] - cell[3]];
    const half = tile / 2;
    const crop = s("svg", { x: spot.x - half, y: spot.y - half, width: tile, height: tile,
      viewBox: box.join(" "), preserveAspectRatio: "xMidYMid slice" },
    s("use", { href: `#${run.key}-image${cell[1]}` }));
    const group = s("g", {}, title, crop, s("rect", { x: spot.x - half, y: spot.y - half, width: tile, height: tile,
      class: `tile ${kind}` }));
    if (kind === "cause") group.append(tag({ patch: true, x: spot.x - half, y: spot.y - half, w: tile, cx: spot.x, cy: spot.y }, view.numberOf(node)));
    else if (tile >= 30) group.append(s("text", { x: spot.x, y: spot.y + half + 12, class: "tile-name" }, shortName(run, members)));
    return group;
  }
  // In a full ring words get no more room than patches do.
  const small = !target && tile < 34;
  // Unlike the graph, a tree does not keep words in reading order: the same word twice is numbered.
  const which = members.length === 1 ? run.labels[members[0]].match(/ #\d+$/) : null;
  const text = target ? explanation.text
    : clipped(run.tokens[members[0]].trim(), small ? 9 : 14) + (which ? which[0] : "");
  const wide = textWidth(text, target) * (small ? 0.79 : 1) + (small ? 8 : 14);
  const high = small ? 19 : 26;
  const place = { x: spot.x - wide / 2, y: spot.y - high / 2, w: wide, h: high, text };
  return s("g", { class: small ? "small-words" : null }, title, pill(place, kind), kind === "cause" ? tag(place, view.numberOf(node)) : null);
}
