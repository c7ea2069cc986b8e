// The verified graph on the image: what was tested is bold; pressing an edge shows what its cut did.

/** The verified graph of the word at some positions; null if there is none. */
const verifiedOf = (run, positions) => run.causal.find((g) => key(g.positions) === key(positions)) || null;

function causalView(run, graph, state, panel) {
  const info = h("div", { class: "small" }, graph.says.map((text) => h("p", {}, text)));
  const drawing = h("div", { class: "drawing" });
  const evidence = h("div", { class: "evidence", "aria-live": "polite", tabindex: -1 });
  const notes = h("div", { class: "notes" });
  panel.append(info, h("div", { class: "split" }, h("div", { class: "drawing" }, drawing, notes),
    h("div", { class: "side" }, evidence, causalLegend(graph))));
  if (graph.refuted.length) {
    panel.append(h("h4", {}, "Refuted by the model, not drawn"),
      h("ul", { class: "small" }, graph.refuted.map((text) => h("li", {}, text))));
  }
  panel.append(h("details", {}, h("summary", {}, "All drawn edges as a table"), causalTable(run, graph)));

  const target = { positions: graph.positions, text: graph.text, graphs: [graph] };
  const view = { inside: graph.nodes.map(() => true), edges: graph.edges.map((edge, at) => [edge, at]),
    numberOf: (node) => graph.numbers[graph.nodes.indexOf(node)], candidates: [], added: 0 };
  let kept = null;
  const show = (edge) => evidence.replaceChildren(...whatIf(edge || kept));
  const keep = (edge) => {
    kept = edge;
    show(edge);
  };
  function whatIf(edge) {
    if (!edge) return [h("h4", {}, "What if"), h("p", { class: "muted" }, "Press an edge: what the model said when it was cut.")];
    const [kind, , text] = graph.tested[graph.edges.indexOf(edge)];
    const meaning = graph.meaning.find(([name]) => name === kind);
    return [h("h4", {}, edgeText(run, target, graph, edge)), h("p", {}, text), h("p", { class: "muted" }, meaning[1] + ".")];
  }
  drawGraph(run, target, graph, state, view, drawing, { hover: show, both: keep,
    pick: (at) => keep(graph.edges.find(([i, j]) => i === at || j === at) || null) });
  notes.replaceChildren(h("p", { class: "small muted" },
    `${graph.nodes.length} of ${plural(graph.total.nodes, "node")} and ${graph.edges.length} of `
    + `${plural(graph.total.edges, "edge")} are drawn, all verified ones among them; ${graph.facts.join(" · ")}.`));
  show(null);
}

const edgeText = (run, target, graph, [i, j, a, b]) =>
  `${nodeText(run, target, graph, i)} ${symbol(a, b)} ${nodeText(run, target, graph, j)}`;

function causalTable(run, graph) {
  const target = { positions: graph.positions, text: graph.text };
  const rows = graph.edges.map((edge, at) => h("tr", {}, h("td", {}, edgeText(run, target, graph, edge)),
    graph.tested[at].map((text) => h("td", {}, text || "–"))));
  return h("div", { class: "scroll", tabindex: 0 }, h("table", {}, h("thead", {}, h("tr", {},
    ["edge", "verified", "margin", "when it was cut"].map((name) => h("th", {}, name)))), h("tbody", {}, rows)));
}

const CAUSAL_WIDTH = { both: 4.4, sufficient: 3, necessary: 3, frame: 1.4, none: 0.8 };

function causalLegend(graph) {
  const sample = (kind) => fill(s("svg", { width: 46, height: 16, viewBox: "0 0 46 16", "aria-hidden": "true" }), {},
    [fill(drawEdge({ cx: 0, cy: 8, r: 0.01 }, { cx: 48, cy: 11, r: 2 }, TAIL, kind === "none" ? TAIL : ARROW,
      CAUSAL_WIDTH[kind]), { class: `edge proven-${kind}` }, [])]);
  const items = graph.meaning.map(([kind, text]) => h("li", {}, sample(kind), text));
  items.push(h("li", {}, "Number at an edge: how the margin of the target changes when it alone is cut."));
  return h("ul", { class: "legend", "aria-label": "Legend" }, items);
}
