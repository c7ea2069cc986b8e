// The causal graph on the image: nodes in their patches, words beside it, the target between them.

function nodeText(run, explanation, graph, at) {
  return at === graph.target ? `“${explanation.text}”` : unitName(run, graph.nodes[at][0]);
}

/** Smallest share at which no more edges than can be read are left. */
function readableShare(graph, most = 34) {
  const shares = graph.edges.map((e) => e[4] || 0).sort((a, b) => b - a);
  if (!graph.united || shares.length <= most) return 0;
  return Math.min(1, Math.ceil(shares[most] * 20 + 0.001) / 20);
}

function graphView(run, explanation, state, panel, redraw) {
  const verified = verifiedOf(run, explanation.positions);
  if (verified) {
    panel.append(choice("Which graph", [[false, verified.title], [true, "As learned"]], state.learned,
      (learned) => redraw({ learned, picked: [] })));
    if (!state.learned) {
      causalView(run, verified, state, panel);
      return;
    }
  }
  const graphs = explanation.graphs;
  if (!graphs.length) {
    panel.append(h("p", {}, `There is no graph: ${explanation.graphNote || "no head has one"}.`));
    return;
  }
  const graph = graphs[state.graph];
  const deepest = Math.max(1, ...graph.reach.map(([, d]) => d));
  state.radius = Math.min(state.radius, deepest);
  const share = state.shares.get(state.graph) ?? readableShare(graph);
  state.shares.set(state.graph, share);

  const controls = h("div", { class: "controls" });
  const info = h("p", { class: "small", "aria-live": "polite" });
  const drawing = h("div", { class: "drawing" });
  const evidence = h("div", { class: "evidence", "aria-live": "polite", tabindex: -1 });
  const table = h("details", {}, h("summary", {}, "All drawn edges as a table"));
  controls.append(slider("Radius", 1, deepest, state.radius, (r) => `${r} of ${deepest}`, (r) => {
    state.radius = r;
    draw();
  }));
  if (graph.united) {
    controls.append(slider("Edges in at least", 0, 1, share, (v) => `${Math.round(100 * v)} % of heads`,
      (v) => {
        state.shares.set(state.graph, v);
        draw();
      }, 0.05));
  }
  const strip = graphs.length > 1 ? headStrip(run, explanation, state, redraw) : null;
  const left = h("div", { class: "drawing" }, drawing, strip, h("div", { class: "notes" }));
  panel.append(controls, info, h("div", { class: "split" }, left,
    h("div", { class: "side" }, evidence, legend(graph, explanation.stable, run.cells.length, explanation.stableRuns))));
  panel.append(table);

  let groups = []; // drawn nodes, by index
  function draw() {
    const view = seenNodes(graph, explanation, state);
    const size = inWords(run, view.candidates);
    info.textContent = !graph.reach.length ? "The target has no neighbour in this graph."
      : `Within radius ${state.radius}: ${plural(view.candidates.length, "candidate")} (${size})`
      + (state.radius > 1 ? `, ${view.added} more than at radius ${state.radius - 1}. ` : ". ")
      + setAtRadius(explanation, graph, state);
    drawing.replaceChildren();
    groups = drawGraph(run, explanation, graph, state, view, drawing, { hover: show, pick, both });
    table.replaceChildren(h("summary", {}, "All drawn edges as a table"),
      edgeTable(run, explanation, graph, view));
    show(null);
  }
  function pick(at) {
    choose(state.picked.includes(at) ? state.picked.filter((n) => n !== at) : [...state.picked, at].slice(-2));
  }
  function both(edge) { // pressing an edge keeps its evidence: fingers cannot point
    choose([edge[0], edge[1]]);
  }
  function choose(nodes) {
    state.picked = nodes;
    for (const [node, group] of groups) {
      group.setAttribute("aria-pressed", String(state.picked.includes(node)));
    }
    show(null);
  }
  function show(edge) {
    const held = evidence.contains(document.activeElement);
    evidence.replaceChildren(...evidenceOf(run, explanation, graph, state, edge, pick));
    if (held) evidence.focus({ preventScroll: true }); // what was pressed is gone
  }
  draw();
}

/** What of a graph is drawn at the radius chosen: nodes, edges, and all candidates within it. */
function seenNodes(graph, explanation, state) {
  const numbers = new Map();
  explanation.sets[explanation.main]?.units.forEach((u, at) => u.forEach((p) => numbers.set(p, at + 1)));
  const numberOf = ([members]) => members.map((p) => numbers.get(p)).find((n) => n);
  const inside = graph.nodes.map((node, at) =>
    at === graph.target || (node[1] > 0 && node[1] <= state.radius) || Boolean(numberOf(node)));
  const share = graph.united ? state.shares.get(state.graph) || 0 : 0;
  const edges = graph.edges.map((edge, at) => [edge, at])
    .filter(([e]) => inside[e[0]] && inside[e[1]] && (e[4] === null || e[4] >= share));
  const within = (r) => graph.reach.filter(([, d]) => d <= r);
  return { inside, edges, numberOf, candidates: within(state.radius).map(([m]) => m),
    added: within(state.radius).length - within(state.radius - 1).length };
}

function setAtRadius(explanation, graph, state) {
  const set = explanation.sets[explanation.main];
  if (!set || !set.units.length) return "";
  const reached = new Set(graph.reach.filter(([, d]) => d <= state.radius).map(([m]) => key(m)));
  const all = new Set(graph.reach.filter(([, d]) => d <= state.radius).flatMap(([m]) => m));
  const held = set.units.filter((u) => reached.has(key(u)) || u.every((p) => all.has(p))).length;
  if (held === set.units.length) return "The whole explaining set is among them.";
  return `${held} of the ${plural(set.units.length, "member")} of the explaining set ${held === 1 ? "is" : "are"} among them.`;
}

/** Where edges end on the bar of the target: one place each, in the order of their other ends. */
function portsOf(graph, view, spots) {
  const bar = spots[graph.target];
  const sides = [[], []]; // towards the image, towards the words
  for (const [edge] of view.edges) {
    const other = edge[0] === graph.target ? edge[1] : edge[1] === graph.target ? edge[0] : null;
    if (other !== null && spots[other]) sides[spots[other].patch ? 0 : 1].push([edge, spots[other]]);
  }
  const ports = new Map();
  const [along, across] = bar.flat ? ["cy", "cx"] : ["cx", "cy"];
  sides.forEach((side, which) => {
    side.sort(([, a], [, b]) => a[along] - b[along] || a[across] - b[across]);
    const room = (bar.flat ? bar.h : bar.w) - 10;
    side.forEach(([edge], at) => {
      const offset = 5 + (room * (at + 0.5)) / side.length;
      const out = which ? 1 : -1;
      ports.set(edge, bar.flat
        ? { cx: which ? bar.x + bar.w : bar.x, cy: bar.y + offset, r: 0.5, enter: [out, 0] }
        : { cx: bar.x + offset, cy: which ? bar.y + bar.h : bar.y, r: 0.5, enter: [0, out] });
    });
  });
  return ports;
}

/** The end of an edge at a word that faces the target; patches are reached from anywhere. */
function facing(place, bar) {
  if (place.patch) return place;
  return bar.flat ? { cx: place.x, cy: place.cy, r: 0.5, enter: [-1, 0] } : { cx: place.cx, cy: place.y, r: 0.5, enter: [0, -1] };
}

/** How many edges the fuller side of the target has. */
function fullestSide(run, graph, view) {
  const count = [0, 0];
  for (const [[i, j]] of view.edges) {
    if (i !== graph.target && j !== graph.target) continue;
    const other = graph.nodes[i === graph.target ? j : i][0];
    count[isImage(run, other[0]) ? 0 : 1] += 1;
  }
  return Math.max(...count);
}

function drawGraph(run, explanation, graph, state, view, drawing, actions) {
  const shown = graph.nodes.flatMap(([members], at) => (view.inside[at] && at !== graph.target ? members : []));
  const words = wordsToShow(run, explanation.positions[0], shown);
  const strip = explanation.graphs.length > 1 ? 152 : 0;
  const stage = makeLayers(run, Math.max(280, drawing.clientWidth), { words, target: explanation.positions,
    targetText: explanation.text, ports: fullestSide(run, graph, view), height: roomBelow(drawing, strip + 24, 280, 560), nodes: new Set(shown),
    label: `Graph of ${graph.title}: ${plural(view.inside.filter(Boolean).length, "node")}, ${plural(view.edges.length, "edge")}` });
  for (const members of view.candidates) {
    for (const p of members) {
      const place = isImage(run, p) ? stage.place([p]) : null;
      if (place) stage.back.append(s("rect", { x: place.x, y: place.y, width: place.w, height: place.h, class: "reach" }));
    }
  }
  const spots = graph.nodes.map(([members], at) => {
    const place = stage.place(at === graph.target ? explanation.positions : members);
    if (place && place.patch) place.r = Math.max(3.5, Math.min(7, Math.min(place.w, place.h) * 0.17));
    return place;
  });
  const kindOf = (at) => (at === graph.target ? "target" : view.numberOf(graph.nodes[at]) ? "cause" : "word");
  // From below: quiet edges, words that are no nodes, frames of patches, other edges, nodes.
  const quiet = s("g", {}), below = s("g", {}), strong = s("g", {}), above = s("g", {});
  stage.front.append(quiet, below, strong, above);
  const isNode = new Set(shown);
  for (const p of words) if (!isNode.has(p) && stage.place([p])) below.append(...pill(stage.place([p]), "faint"));
  const ports = portsOf(graph, view, spots);
  const groups = [];
  for (const [edge, index] of view.edges) {
    const [i, j, a, b] = edge;
    if (!spots[i] || !spots[j]) continue;
    const port = ports.get(edge);
    const end = (node) => (port ? (node === graph.target ? port : facing(spots[node], spots[graph.target])) : spots[node]);
    const proof = graph.tested ? graph.tested[index][0] : null;
    const group = drawEdge(end(i), end(j), a, b, proof ? CAUSAL_WIDTH[proof] : thickness(graph, edge));
    const kinds = [kindOf(i), kindOf(j)];
    if (proof) group.classList.add(`proven-${proof}`);
    else if (port) group.classList.add("to-target");
    const plain = proof ? proof === "none" : !port && !kinds.includes("cause");
    if (plain && !proof) group.classList.add("quiet");
    if (proof && graph.tested[index][1] && group.middle) {
      const [x, y] = group.middle;
      group.append(s("text", { x, y: y - 6, class: "over effect" }, graph.tested[index][1]));
    }
    const said = `edge ${nodeText(run, explanation, graph, i)} ${symbol(a, b)} ${nodeText(run, explanation, graph, j)}`;
    fill(group, { tabindex: -1, role: "button", "aria-label": said, "data-edge": index,
      ...pressable(() => actions.both(edge)),
      onpointerenter: () => actions.hover(edge), onpointerleave: () => actions.hover(null),
      onfocus: () => actions.hover(edge), onblur: () => actions.hover(null) }, []);
    (plain ? quiet : strong).append(group);
    groups.push([edge, group]);
  }
  // A node that is pointed at shows its own edges, and pales the others.
  const light = (at) => {
    stage.svg.classList.toggle("lit-one", at !== null);
    for (const [edge, group] of groups) group.classList.toggle("lit", at !== null && (edge[0] === at || edge[1] === at));
  };
  const drawn = [];
  graph.nodes.forEach((node, at) => {
    if (!view.inside[at] || !spots[at]) return;
    const kind = kindOf(at);
    const place = spots[at];
    const radius = node[1] > 0 ? `, radius ${node[1]}` : "";
    const member = kind === "cause" ? `, member ${view.numberOf(node)} of the set` : "";
    if (place.patch) below.append(...frame(place, kind));
    const group = s("g", { class: `node ${kind}`, role: "button", tabindex: -1, "data-node": at,
      "aria-pressed": String(state.picked.includes(at)),
      "aria-label": nodeText(run, explanation, graph, at) + (kind === "target" ? ", the target" : radius) + member,
      ...pressable(() => actions.pick(at)), onpointerenter: () => light(at), onpointerleave: () => light(null),
      onfocus: () => light(at), onblur: () => light(null) },
    s("title", {}, nodeText(run, explanation, graph, at)),
    place.patch ? [s("circle", { cx: place.cx, cy: place.cy, r: Math.max(place.r, 10), class: "hit" }),
      s("circle", { cx: place.cx, cy: place.cy, r: place.r, class: `dot ${kind}` })] : pill(place, kind));
    if (kind === "cause") group.append(tag(place, view.numberOf(node), true));
    drawn.push([at, group]);
    above.append(group);
  });
  roving(stage.svg, "[data-node],[data-edge]");
  drawing.append(stage.svg);
  drawing.parentNode.querySelector(".notes").replaceChildren(h("p", { class: "small muted" },
    `${drawn.length} of ${plural(graph.total.nodes, "node")} and ${view.edges.length} of `
    + `${plural(graph.total.edges, "edge")} are drawn. Point at an edge or press it for its evidence; choose two nodes to see what `
    + "joins or separates them. Arrow keys go from node to node."),
  h("p", { class: "small muted" }, `Learned from: ${graph.facts.join(" · ")}.`));
  return drawn;
}

const evidenceRow = (name, value) => (value === null ? [] : [h("dt", {}, name), h("dd", {}, value)]);

function testNumbers(graph, weakest, p, tests) {
  return [...evidenceRow("weakest |partial r|", weakest === null ? null
    : number(weakest, 3) + (graph.level === null ? "" : ` (dependence: above ${number(graph.level, 2)})`)),
  ...evidenceRow("largest p", p === null ? null : number(p, 3)),
  ...evidenceRow("CI tests", tests === null ? null : String(tests))];
}

function edgeEvidence(run, explanation, graph, edge) {
  const [i, j, a, b, share, weakest, p, tests] = edge;
  const [first, second] = [i, j].map((n) => nodeText(run, explanation, graph, n));
  const place = graph.voters ? graph.edges.indexOf(edge) : -1;
  const voters = place < 0 ? null : graph.voters[place];
  const names = graph.names || [];
  return [h("h4", {}, `${first} ${symbol(a, b)} ${second}`),
    h("p", {}, reading(a, b, first, second) + "."),
    h("dl", {}, testNumbers(graph, weakest, p, tests),
      evidenceRow(graph.united ? "weighted share of heads" : "share of repeated runs",
        share === null ? null : number(share, 2)),
      evidenceRow("heads with this edge", voters ? `${voters.length} of ${names.length}` : null)),
  voters && graph.perHead ? headsOf(run, names, voters, graph.perHead[place]) : null].filter((part) => part);
}

/** What every head says about an edge of the union: its partial correlation, or what separates. */
function headsOf(run, names, voters, entries) {
  const line = (entry, at) => {
    if (!entry) return "not both are nodes here";
    const size = entry[0] === null ? "" : `, weakest |partial r| ${number(entry[0], 3)}`;
    if (voters.includes(at)) return `edge${size}`;
    const between = (entry[1] || []).map((p) => unitName(run, [p]));
    return `no edge: ${between.length ? `separated by { ${between.join(", ")} }` : "independent without conditioning"}${size}`;
  };
  return h("ul", { class: "edges heads" }, entries.map((entry, at) =>
    h("li", {}, h("b", {}, names[at]), `: ${line(entry, at)}`)));
}

function evidenceOf(run, explanation, graph, state, edge, pick) {
  if (edge) return edgeEvidence(run, explanation, graph, edge);
  const [one, two] = state.picked.filter((n) => graph.nodes[n]);
  if (one === undefined) {
    return [h("h4", {}, "Evidence"), h("p", { class: "muted" }, "Point at an edge or press it, or choose one or two nodes.")];
  }
  if (two === undefined) {
    const mine = graph.edges.filter((e) => e[0] === one || e[1] === one);
    const lines = mine.map((e) => {
      const other = e[0] === one ? e[1] : e[0];
      const sign = e[0] === one ? symbol(e[2], e[3]) : symbol(e[3], e[2]);
      return h("li", {}, h("button", { type: "button", class: "link", onclick: () => pick(other) },
        `${sign} ${nodeText(run, explanation, graph, other)}`));
    });
    return [h("h4", {}, nodeText(run, explanation, graph, one)),
      h("p", {}, mine.length ? "Its edges; choose one, or a second node:" : "It has no edge among these nodes; choose a second node to see what separates them."),
      h("ul", { class: "edges" }, lines)];
  }
  const [i, j] = [Math.min(one, two), Math.max(one, two)];
  const joined = graph.edges.find((e) => e[0] === i && e[1] === j);
  if (joined) return edgeEvidence(run, explanation, graph, joined);
  const names = [i, j].map((n) => nodeText(run, explanation, graph, n));
  const apart = graph.apart.find((e) => e[0] === i && e[1] === j);
  const head = h("h4", {}, `${names[0]} and ${names[1]}: no edge`);
  if (!apart) {
    return [head, h("p", {}, graph.united ? "No head has an edge between them." : "No separating set is stored for them.")];
  }
  const between = apart[2].map((p) => unitName(run, [p]));
  return [head, h("p", {}, between.length
    ? ["Independent given the separating set ", h("b", {}, `{ ${between.join(", ")} }`), "."]
    : "Independent without conditioning on anything (the separating set is empty)."),
  h("dl", {}, testNumbers(graph, apart[3], apart[4], apart[5]))];
}

function edgeTable(run, explanation, graph, view) {
  const head = ["edge", "weakest |partial r|", "largest p", "tests", "share"];
  const rows = view.edges.map(([e]) => h("tr", {},
    h("td", {}, `${nodeText(run, explanation, graph, e[0])} ${symbol(e[2], e[3])} ${nodeText(run, explanation, graph, e[1])}`),
    [number(e[5], 3), number(e[6], 3), e[7] === null ? "–" : String(e[7]), number(e[4], 2)]
      .map((text) => h("td", { class: "n" }, text))));
  return h("div", { class: "scroll", tabindex: 0 }, h("table", {}, h("thead", {}, h("tr", {},
    head.map((name, at) => h("th", { class: at ? "n" : "" }, name)))), h("tbody", {}, rows)));
}

/** Graphs that no set was searched in are only there beside the one in which it was. */
const stripTitle = (graph, extra) => (extra && !graph.extra ? `${graph.title} (searched)` : graph.title);

/** Small multiples: one thumbnail per graph, to be chosen from. */
function headStrip(run, explanation, state, redraw) {
  const extra = explanation.graphs.some((g) => g.extra);
  const options = explanation.graphs.map((graph, at) => [at,
    [thumbnail(run, explanation, graph), h("span", {}, stripTitle(graph, extra)),
      h("span", { class: "muted" }, plural(graph.reach.filter(([, d]) => d === 1).length, "neighbour"))],
    `${stripTitle(graph, extra)}: ${plural(graph.reach.filter(([, d]) => d === 1).length, "neighbour")} of the target`]);
  const strip = choice("Graph of which head", options, state.graph,
    (at) => redraw({ graph: at, picked: [] }), { kind: "strip" });
  return strip;
}

function thumbnail(run, explanation, graph) {
  const width = 104;
  const words = wordsToShow(run, explanation.positions[0], [], 0);
  const stage = makeStage(run, width, { words, target: null, label: "", height: 78 });
  const tall = stage.height + 12;
  const spots = graph.nodes.map(([members], at) => {
    const place = at === graph.target ? null : stage.place(members);
    if (place) return place;
    // Words have no place of their own here: they stand in a row below the image.
    const x = at === graph.target ? width / 2 : 8 + ((at * 37) % (width - 16));
    return { cx: x, cy: tall - 5 };
  });
  const seenHere = graph.nodes.map(([, d], at) => at === graph.target || d === 1);
  const share = readableShare(graph, 20);
  for (const e of graph.edges) {
    if (!seenHere[e[0]] || !seenHere[e[1]] || (graph.united && e[4] < share)) continue;
    const [a, b] = [spots[e[0]], spots[e[1]]];
    stage.front.append(s("line", { x1: a.cx, y1: a.cy, x2: b.cx, y2: b.cy, class: "thin" }));
  }
  graph.nodes.forEach((node, at) => {
    if (!seenHere[at]) return;
    stage.front.append(s("circle", { cx: spots[at].cx, cy: spots[at].cy, r: at === graph.target ? 4 : 3,
      class: `dot ${at === graph.target ? "target" : "word"}` }));
  });
  fill(stage.svg, { height: tall, viewBox: `0 0 ${width} ${tall}`, "aria-hidden": "true" }, []);
  stage.svg.removeAttribute("role");
  return stage.svg;
}
