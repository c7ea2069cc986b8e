// Every method side by side at equal budget: the k tokens it ranks highest, over its whole map.

const SCOPES = [["all", "Patches and words"], ["image", "Patches only"], ["text", "Words only"]];

function compareView(run, explanation, state, panel, attributions, positions) {
  if (!attributions.length) {
    panel.append(h("p", { class: "muted" }, "No other method was run for this word. causal_lvlm.attribute(trace, target, method) "
      + "makes the maps, and report(..., attributions=[...]) puts them here."));
    if (!explanation) return;
  }
  const start = positions[0];
  const kept = explanation && explanation.mode === "sufficient";
  const kinds = { all: "ipg", image: "i", text: "pg" };
  const candidates = () => [...Array(start).keys()].filter((p) => kinds[state.scope].includes(run.kinds[p]) && p !== start - 1);
  const set = explanation ? explanation.sets[state.set] : null;
  const size = set ? set.units.flat().length : 0;
  const most = Math.max(1, Math.min(64, candidates().length));
  state.k = Math.min(state.k || size || 5, most);
  const grid = h("div", { class: "cards" });
  panel.append(h("div", { class: "controls" },
    slider("Budget", 1, most, state.k, (k) => plural(k, "token") + (k === size ? " (as the set)" : ""), (k) => {
      state.k = k;
      draw();
    }),
    choice("Which tokens count", run.cells.length ? SCOPES : SCOPES.slice(2), run.cells.length ? state.scope : "text", (scope) => {
      state.scope = scope;
      draw();
    }),
    h("label", { class: "check" }, h("input", { type: "checkbox", checked: state.map, onchange: (event) => {
      state.map = event.target.checked;
      draw();
    } }), "show the whole map")), grid,
  h("p", { class: "small muted" }, "Every method names as many tokens as the budget allows, those with its highest scores. "
    + (explanation && explanation.asked.length
      ? `Below each map stands what the model says with them ${kept ? "alone kept" : "masked"}. ${explanation.metricNote} `
        + `Masking is “${explanation.masking}” where a number names no other.`
      : "Scores are not tested by masking; the explaining set is. "
        + "causal-lvlm explain --faithfulness, or report(..., metrics=True), asks the model about them too.")));
  const answers = explanation ? answersOf(explanation) : new Map();

  function draw() {
    grid.replaceChildren();
    const entries = [];
    if (set && set.units.length) {
      entries.push({ name: "explaining set", detail: set.verified ? "verified" : "candidates, not verified",
        chosen: set.units.flat(), scores: null, metrics: explanation.metrics, notes: [],
        answer: set.before === null ? null : [set.before, set.after, set.said, set.changed] });
    }
    for (const a of attributions) {
      const order = a.top[run.cells.length ? state.scope : "text"];
      const chosen = order.slice(0, state.k);
      const known = answers.get(key([...chosen].sort((p, q) => p - q)));
      entries.push({ name: a.method, scores: a.scores, metrics: a.metrics, notes: a.notes,
        detail: a.backward ? `${a.runs} forward + ${a.backward} backward` : plural(a.runs, "forward pass", "forward passes"),
        chosen, answer: known ? [explanation.before, ...known] : null, asked: Boolean(explanation && explanation.asked.length) });
    }
    const words = candidateWords(run, start);
    const room = Math.max(280, panel.clientWidth);
    const columns = Math.max(1, Math.min(entries.length, Math.floor((room + 18) / (run.cells.length ? 168 : 260))));
    const wide = Math.min(280, (room - 18 * (columns - 1)) / columns);
    grid.setAttribute("style", `grid-template-columns:repeat(${columns},minmax(0,${Math.max(wide, 1)}px))`);
    for (const entry of entries) grid.append(methodCard(run, { ...entry, kept, wide, masking: explanation?.masking }, state, words));
  }
  draw();
}

function methodCard(run, entry, state, words) {
  const chosen = new Set(entry.chosen);
  const what = inWords(run, entry.chosen.map((p) => [p]));
  const label = `${entry.name}: ${what}`;
  const card = h("article", { class: "method" }, h("div", { class: "method-head" },
    h("h4", {}, entry.name.split("_").map((part, at) => [at ? ["_", h("wbr")] : null, part])), h("p", { class: "small muted" }, entry.detail)));
  if (!run.cells.length && entry.scores) card.append(wordMap(run, entry, chosen, words));
  if (run.cells.length) {
    const stage = makeStage(run, entry.wide, { words: [], target: null, height: 280, label });
    stage.svg.setAttribute("role", "img");
    const cells = run.cells.filter(([p]) => words.length >= 0 && (entry.scores ? true : chosen.has(p)));
    const values = cells.map(([p]) => (entry.scores ? entry.scores[p] : 0));
    const paint = colours(values);
    for (const [at, [p]] of cells.entries()) {
      const place = stage.place([p]);
      if (entry.scores && state.map) {
        stage.back.append(s("rect", { x: place.x, y: place.y, width: place.w + 0.4, height: place.h + 0.4,
          fill: paint(values[at]), "fill-opacity": 0.72 }));
      }
      if (chosen.has(p)) stage.front.append(...frame(place, entry.scores ? "picked" : "cause"));
    }
    if (entry.scores && state.map) stage.svg.firstChild.setAttribute("class", "greyed");
    card.append(stage.svg);
    if (entry.scores && state.map) card.append(scale(values));
  }
  const named = entry.scores ? words.filter((p) => chosen.has(p)) : entry.chosen.filter((p) => !isImage(run, p));
  if (run.cells.length || !entry.scores) card.append(h("p", { class: "small" }, `${what}${named.length ? ": " : ""}`,
    named.map((p) => h("mark", { class: entry.scores ? "picked" : "t-cause" }, run.tokens[p].trim() || "␣"))));
  card.append(...tested(entry));
  if (entry.metrics.length) {
    card.append(h("dl", { class: "numbers" }, entry.metrics.map(([name, value, better]) =>
      [h("dt", { title: name }, `${name.replace(`[${entry.masking}]`, "")} ${better}`), h("dd", {}, value)])));
  }
  for (const note of entry.notes) card.append(h("p", { class: "small muted" }, note));
  return card;
}

/** What the model said under the masks that somebody asked about, by the positions chosen. */
function answersOf(explanation) {
  const found = new Map();
  if (explanation.mode === "necessary") {
    for (const [units, p, said, changed] of explanation.tried) {
      found.set(key(units.flatMap((u) => explanation.units[u]).sort((a, b) => a - b)), [p, said, changed]);
    }
  }
  for (const [positions, p, said, changed] of explanation.asked) found.set(key(positions), [p, said, changed]);
  return found;
}

/** “Masking these 2: p 1.00 → 0.31, still says “yellow”.” Or that nobody asked. */
function tested(entry) {
  const count = entry.chosen.length === 1 ? "this one" : `these ${entry.chosen.length}`;
  const what = entry.kept ? `keeping only ${count}` : `masking ${count}`;
  if (!entry.answer) {
    return entry.asked ? [h("p", { class: "small muted" }, `${what}: the model was not asked at this budget`)] : [];
  }
  const [before, after, said, changed] = entry.answer;
  if (!said) return [];
  return [h("p", { class: "small tested" }, `${what}: `, h("span", { class: "nowrap" }, `p ${chance(before)} → ${chance(after)}`), ", ",
    h("b", { class: changed === Boolean(entry.kept) ? "" : "hit-word" }, changed ? said : said.replace("says", "still says")))];
}

/** Without patches: all words in order, each underlined as long as its score is high. */
function wordMap(run, entry, chosen, words) {
  const most = Math.max(...words.map((p) => Math.abs(entry.scores[p])), 0) || 1;
  return h("p", {}, words.map((p) => [h("mark", { class: chosen.has(p) ? "picked" : "", title: number(entry.scores[p], 3) },
    run.tokens[p].trim() || "␣",
    h("span", { class: "track", style: "height:6px" }, h("span", { class: `amount ${entry.scores[p] < 0 ? "is" : "was"}`,
      style: `width:${(100 * Math.abs(entry.scores[p])) / most}%` }))), " "]));
}

/** The colours of a map from its lowest to its highest value. */
function scale(values) {
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  const limit = low < 0 ? Math.max(-low, high) : high;
  const paint = colours(values);
  const from = low < 0 ? -limit : 0;
  const stops = [...Array(11)].map((_, k) => paint(from + ((limit - from) * k) / 10));
  return h("p", { class: "scale small muted" }, h("span", {}, number(from, 3)),
    h("span", { class: "ramp", style: `background:linear-gradient(to right,${stops.join(",")})` }),
    h("span", {}, number(limit, 3)));
}

/** Colour of a score: cividis from zero, PuOr around zero where there are negative ones. */
function colours(values) {
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  const table = low < 0 ? DATA.colours.PuOr : DATA.colours.cividis;
  const limit = Math.max(-low, high) || 1;
  const at = (v) => (low < 0 ? (v + limit) / (2 * limit) : v / limit);
  return (v) => `rgb(${table[Math.round(Math.max(0, Math.min(1, at(v))) * (table.length - 1))].join(",")})`;
}
