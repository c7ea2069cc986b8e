// Edges with PAG marks, their thickness, what they mean, and the legend.

const CIRCLE = 1, ARROW = 2, TAIL = 3;

/** Thickness of an edge: by share (of heads or runs) where known, else by the weakest |partial r|. */
function thickness(graph, edge) {
  const [, , , , share, weakest] = edge;
  if (share !== null) return 0.8 + 2 * share;
  if (weakest === null) return 1.6;
  const low = graph.level || 0;
  return 0.8 + 2 * Math.max(0, Math.min(1, (weakest - low) / Math.max(1 - low, 1e-6)));
}

function thicknessMeaning(graph, stable, runs) {
  if (graph.united) return "share of the heads that have the edge (weighted by how much a head looks at the candidates)";
  if (graph.edges.some((e) => e[4] !== null) && stable) {
    return `share of ${runs ? `${runs} ` : ""}graphs learned again from jittered weights that have the edge`;
  }
  if (graph.edges.some((e) => e[5] !== null)) {
    return "weakest |partial correlation| that keeps the edge; its stability was not measured";
  }
  return null;
}

/** Whether a point is inside a node: a disc on a patch, a pill of a word. */
function insideNode(node, x, y) {
  if (node.r) return Math.hypot(x - node.cx, y - node.cy) < node.r + 1;
  return Math.abs(x - node.cx) < node.w / 2 + 1 && Math.abs(y - node.cy) < node.h / 2 + 1;
}

/** Points of a curve from a to b between the borders of both nodes; null if there is no room. */
function curve(a, b) {
  const dx = b.cx - a.cx;
  const dy = b.cy - a.cy;
  const length = Math.hypot(dx, dy) || 1;
  const port = a.enter ? a : b.enter ? b : null;
  const level = !a.r && !b.r && Math.abs(dy) < 4;
  const bend = level ? Math.min(0.45, 26 / length + 0.12) : 0.07;
  let nx = dy / length;
  let ny = -dx / length;
  if (ny > 0 || (ny === 0 && nx > 0)) [nx, ny] = [-nx, -ny];
  let mx = (a.cx + b.cx) / 2 + nx * bend * length * 2;
  let my = (a.cy + b.cy) / 2 + ny * bend * length * 2;
  if (port) { // a place on the border of the target: curves arrive at a right angle to it
    mx = port.cx + port.enter[0] * length * 0.45;
    my = port.cy + port.enter[1] * length * 0.45;
  } else if (!a.r && !b.r && a.x !== undefined && Math.abs(a.x - b.x) < 4) {
    mx = Math.max(a.x + a.w, b.x + b.w) + 12 + 0.12 * length; // words below each other: around the others
    my = (a.cy + b.cy) / 2;
  }
  const points = [];
  for (let k = 0; k <= 60; k += 1) {
    const t = k / 60;
    const u = 1 - t;
    const [x, y] = a.enter && b.enter ? [between(a, b, length, t, "cx", 0), between(a, b, length, t, "cy", 1)]
      : [u * u * a.cx + 2 * u * t * mx + t * t * b.cx, u * u * a.cy + 2 * u * t * my + t * t * b.cy];
    if (!insideNode(a, x, y) && !insideNode(b, x, y)) points.push([x, y]);
  }
  return points.length > 1 ? points : null;
}

/** A coordinate of the curve that leaves both ends at a right angle. */
function between(a, b, length, t, axis, at) {
  const u = 1 - t;
  const reach = length * 0.42;
  return u * u * u * a[axis] + 3 * u * u * t * (a[axis] + a.enter[at] * reach)
    + 3 * u * t * t * (b[axis] + b.enter[at] * reach) + t * t * t * b[axis];
}

/** Cut `size` pixels off the end of a line of points; returns the tip and the direction to it. */
function cutEnd(points, size) {
  const tip = points.at(-1);
  while (points.length > 2 && Math.hypot(tip[0] - points.at(-2)[0], tip[1] - points.at(-2)[1]) < size) {
    points.splice(points.length - 2, 1);
  }
  const before = points.at(-2);
  const length = Math.hypot(tip[0] - before[0], tip[1] - before[1]) || 1;
  const d = [(tip[0] - before[0]) / length, (tip[1] - before[1]) / length];
  const cut = Math.min(size, length * 0.9);
  points[points.length - 1] = [tip[0] - d[0] * cut, tip[1] - d[1] * cut];
  return { tip, d };
}

function markShape(mark, { tip, d }, size) {
  const [x, y] = tip;
  if (mark === CIRCLE) {
    return s("circle", { cx: x - d[0] * size / 2, cy: y - d[1] * size / 2, r: size / 2 - 0.6,
      class: "mark open" });
  }
  const base = [x - d[0] * size * 1.15, y - d[1] * size * 1.15];
  const wide = size * 0.58;
  return s("polygon", { class: "mark full", points: [[x, y],
    [base[0] - d[1] * wide, base[1] + d[0] * wide],
    [base[0] + d[1] * wide, base[1] - d[0] * wide]].map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ") });
}

/** An edge between two placed nodes as a group: wide invisible line, halo, line, marks. */
function drawEdge(a, b, markA, markB, width, size = 7.5 + width) {
  const points = curve(a, b);
  if (!points) return s("g", { class: "edge" });
  const room = Math.hypot(points[0][0] - points.at(-1)[0], points[0][1] - points.at(-1)[1]);
  const big = Math.max(4, Math.min(size, room * 0.36));
  const shapes = [];
  const cut = (mark) => (mark === CIRCLE ? big : mark === ARROW ? big : 0);
  if (markB !== TAIL && markB) shapes.push(markShape(markB, cutEnd(points, cut(markB)), big));
  points.reverse();
  if (markA !== TAIL && markA) shapes.push(markShape(markA, cutEnd(points, cut(markA)), big));
  const middle = points[points.length >> 1];
  const path = "M" + points.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L");
  const group = s("g", { class: "edge" }, s("path", { d: path, class: "hit" }),
    s("path", { d: path, class: "edge-halo", "stroke-width": width + 2.5 }),
    s("path", { d: path, class: "line", "stroke-width": width }), shapes);
  group.middle = middle;
  return group;
}

const LEFT = { [CIRCLE]: "o", [ARROW]: "<", [TAIL]: "–" };
const RIGHT = { [CIRCLE]: "o", [ARROW]: ">", [TAIL]: "–" };

/** The marks of an edge as text: o–>, <–>, –––. */
const symbol = (markA, markB) => `${LEFT[markA]}–${RIGHT[markB]}`;

/** What the marks at both ends say, in words. */
function reading(markA, markB, a, b) {
  const end = (mark, x, y) => (mark === ARROW ? `${x} is not a cause of ${y}`
    : mark === TAIL ? `${x} is a cause of ${y}` : `whether ${x} causes ${y} is not determined`);
  if (markA === ARROW && markB === ARROW) return `neither causes the other: something else drives both ${a} and ${b}`;
  if (markA === CIRCLE && markB === CIRCLE) return "the direction is not determined at either end";
  return `${end(markA, a, b)}; ${end(markB, b, a)}`;
}

/** The legend: what every mark, frame and line means. */
function legend(graph, stable, patches, runs) {
  const sample = (mark) => s("svg", { width: 46, height: 16, viewBox: "0 0 46 16", "aria-hidden": "true" },
    drawEdge({ cx: 0, cy: 8, r: 0.01 }, { cx: 48, cy: 11, r: 2 }, TAIL, mark, 1.8));
  const framed = (kind) => s("svg", { width: 26, height: 18, viewBox: "0 0 26 18", "aria-hidden": "true" },
    s("rect", { x: 3, y: 2, width: 20, height: 14, rx: 4, class: `pill ${kind}` }));
  const meaning = thicknessMeaning(graph, stable, runs);
  const items = [
    [sample(CIRCLE), "circle: not determined, arrowhead or tail"],
    [sample(ARROW), "arrowhead: this end is not a cause of the other end"],
    [sample(TAIL), "plain end (tail): this end is a cause of the other end"],
    [framed("target"), "the target"],
    [framed("cause"), "member of the explaining set, numbered"],
    [framed("word"), patches ? "other node; on the image: a dot in its patch" : "other node"],
  ];
  items.push([null, "Edges of the target and of the set are drawn strongly, others when a node or they themselves are pointed at."]);
  if (meaning) items.push([null, `Thickness: ${meaning}.`]);
  return h("ul", { class: "legend", "aria-label": "Legend" },
    items.map(([picture, text]) => h("li", {}, picture, text)));
}
