// The page: chooses the run and the word, then shows one of the views. Without script, and on paper,
// the static part of the page says the same.

const DATA = JSON.parse(document.getElementById("data").textContent);
const state0 = { view: "set", learned: false, set: 0, graph: 0, radius: 1, picked: [], k: null, scope: "all", map: true };
const VIEWS = [["set", "Explaining set"], ["graph", "Causal graph"], ["tree", "PDS-tree"],
  ["compare", "Compare methods"], ["mask", "What if"], ["numbers", "Numbers"]];

/** All words of a run that something is known about, in the order of the answer. */
function targetsOf(run) {
  const found = new Map();
  const at = (positions, text) => {
    const name = key(positions);
    if (!found.has(name)) found.set(name, { positions, text, explanations: [], attributions: [] });
    return found.get(name);
  };
  run.explanations.forEach((e, index) => at(e.positions, e.text).explanations.push(index));
  run.causal.forEach((g) => at(g.positions, g.text));
  run.attributions.forEach((a) => at(a.positions, a.text).attributions.push(a));
  return [...found.values()].sort((a, b) => a.positions[0] - b.positions[0] || a.positions.length - b.positions.length);
}

function freshState(run, target) {
  const explanation = run.explanations[target.explanations[0]];
  const main = explanation?.sets[explanation.main];
  return { ...state0, radius: main?.radius ?? 1, shares: new Map(), masked: new Set(), which: target.explanations[0] ?? null,
    set: explanation ? explanation.main : 0, graph: explanation ? explanation.graphShown : 0,
    view: explanation ? "set" : "compare" };
}

function start(root) {
  let run, targets, target, state;
  const head = h("div", {});
  const card = h("section", { class: "card", "aria-label": "The explanation" });
  root.append(head, card);

  function openRun(index) {
    run = DATA.runs[index];
    defineImages(run);
    targets = targetsOf(run);
    const first = run.explanations[0];
    target = first ? targets.find((t) => key(t.positions) === key(first.positions)) : targets[0];
    state = target ? freshState(run, target) : null;
    head.replaceChildren(...runHead(run, index));
    const strip = head.querySelector(".run-head .pills"); // on a phone it is moved sideways
    const chosen = strip?.querySelector("[aria-checked=true]");
    if (chosen) strip.scrollLeft = chosen.offsetLeft - strip.offsetLeft - 40;
    card.replaceChildren();
    card.hidden = !target;
    if (target) drawCard();
  }

  function runHead(current, index) {
    const parts = [];
    const top = h("div", { class: "run-head" });
    if (DATA.runs.length > 1) {
      const options = DATA.runs.map((other, at) => [at, other.name || `Run ${at + 1}`]);
      top.append(choice("Which run", options, index, (at) => {
        openRun(at);
        focusChoice(head, "Which run"); // the buttons are new ones
      }));
    }
    if (current.note) top.append(h("p", { class: "small muted" }, current.note));
    if (top.childElementCount) parts.push(top);
    parts.push(h("section", { class: "card answer-card", "aria-label": "Prompt and answer" },
      promptLine(current), answerLine(current)));
    return parts;
  }

  function promptLine(current) {
    const line = h("p", { class: "prompt-line" }, h("span", { class: "who" }, "Prompt"));
    const imageOf = new Map(current.cells.map(([p, n]) => [p, n]));
    let last = null; // images may follow each other without a word between them
    for (let p = 0; p < current.nPrompt; p += 1) {
      if (isImage(current, p)) {
        const name = current.images.length > 1 && imageOf.has(p) ? `[image ${imageOf.get(p)}]` : last || "[image]";
        if (name !== last) line.append(" ", h("span", { class: "t-image" }, name), " ");
        last = name;
        continue;
      }
      last = null;
      line.append(glue(current, p), h("span", { class: current.kinds[p] === "s" ? "t-frame" : "" }, current.tokens[p].trim()));
    }
    return line;
  }

  function answerLine(current) {
    const tools = h("span", { class: "words", role: "toolbar", "aria-label": "Answer: choose a word to see why it was said" });
    for (let p = current.nPrompt; p < current.kinds.length; p += 1) {
      const here = targets.filter((t) => t.positions.includes(p));
      const text = current.tokens[p].trim() || current.tokens[p];
      const prob = current.probs ? current.probs[p - current.nPrompt] : null;
      const title = prob === null || prob === undefined ? null : `probability ${number(prob)}`;
      tools.append(glue(current, p), here.length
        ? h("button", { type: "button", class: "word", "data-at": p, title, "aria-pressed": "false",
          "aria-label": `${text}: explain`, onclick: () => choose(here, p) }, text)
        : h("span", { class: "unexplained", title }, text));
    }
    const line = h("p", { class: "answer-line" }, h("span", { class: "who" }, "Answer"), tools);
    if (tools.querySelector("button")) roving(tools, "button");
    const shared = targets.some((t) => targets.some((u) => u !== t && u.positions.some((p) => t.positions.includes(p))));
    if (targets.length) {
      line.append(h("span", { class: "small muted hint" }, targets.length > 1 ? "Choose an underlined word." : "",
        shared ? " Press it again for what else it is part of." : ""));
    }
    setTimeout(mark, 0);
    return line;
  }

  const glue = (current, p) => (p && (current.spaced[p] || !current.spaced.some((x, q) => x && current.kinds[q] === current.kinds[p])) ? " " : "");

  function mark() {
    for (const button of head.querySelectorAll("button.word")) {
      button.setAttribute("aria-pressed", String(target.positions.includes(Number(button.dataset.at))));
    }
  }

  function choose(here, p) {
    // A token may belong to a longer target as well: pressing it again goes to the next one.
    const at = here.indexOf(target);
    target = here[(at + 1) % here.length] || here.find((t) => t.positions[0] === p) || here[0];
    const view = state.view;
    state = freshState(run, target);
    if (state.which !== null) state.view = view;
    mark();
    drawCard();
  }

  function drawCard() {
    const explanation = state.which === null ? null : run.explanations[state.which];
    const panel = h("div", { id: "panel", role: "tabpanel", class: "panel" });
    const redraw = (change) => {
      const label = document.activeElement?.closest("[role=radiogroup]")?.getAttribute("aria-label");
      Object.assign(state, change);
      drawPanel();
      if (label) focusChoice(panel, label);
    };
    const drawPanel = () => {
      panel.replaceChildren();
      panel.setAttribute("aria-labelledby", `tab-${state.view}`);
      if (!explanation && verifiedOf(run, target.positions)) {
        causalView(run, verifiedOf(run, target.positions), state, panel);
        if (!target.attributions.length) return;
      }
      if (state.view === "compare") {
        compareView(run, explanation, state, panel, target.attributions, target.positions);
      } else if (state.view === "numbers") panel.append(...numbersOf(run, state.which));
      else {
        const views = { set: setView, graph: graphView, tree: treeView, mask: maskView };
        views[state.view](run, explanation, state, panel, redraw);
      }
    };
    const title = h("h2", {}, `Why “${target.text}”?`);
    card.replaceChildren(h("div", { class: "card-head" }, title));
    if (explanation) {
      const main = explanation.sets[explanation.main];
      title.after(h("p", { class: "badges" }, (main ? main.badges : []).map(([tone, text]) => h("span", { class: `badge ${tone}` }, text))));
      card.append(h("p", { class: "sentence" }, explanation.sentence));
      if (target.explanations.length > 1) {
        const options = target.explanations.map((at) => [at, `${run.explanations[at].how}, ${run.explanations[at].masking}`]);
        card.append(choice("Which explanation", options, state.which, (at) => {
          state = { ...freshState(run, target), view: state.view, which: at, set: run.explanations[at].main,
            graph: run.explanations[at].graphShown };
          drawCard();
          focusChoice(card, "Which explanation");
        }));
      }
      card.append(choice("View", VIEWS, state.view, (view) => redraw({ view }), { tabs: true, kind: "tabs" }));
    }
    card.append(panel);
    drawPanel();
    redrawNow = drawPanel;
  }

  /** Tables and settings are the static ones: said once, shown twice. */
  function numbersOf(current, which) {
    const source = document.getElementById(`${current.key}-explanation${which}`);
    const kept = source ? [...source.querySelectorAll(".scroll, .settings, details")] : [];
    return kept.map((node) => node.cloneNode(true));
  }

  const byHash = () => {
    const at = DATA.runs.findIndex((r) => `#${r.key}` === window.location.hash);
    return at < 0 ? 0 : at;
  };
  window.addEventListener("hashchange", () => openRun(byHash()));
  openRun(byHash());
}

let redrawNow = null;

/** Drawings are made for the width there is; they are made again when it changes. */
function followWidth(box) {
  let last = box.clientWidth;
  new ResizeObserver(() => {
    if (!box.clientWidth || box.clientWidth === last) return; // hidden (printing), or only higher
    last = box.clientWidth;
    if (redrawNow) redrawNow();
  }).observe(box);
}

const app = document.getElementById("app");
try {
  app.hidden = false; // before drawing: drawings ask how wide they may be
  start(app);
  performance.mark("first-view"); // drawn; how long that took can be read in any browser
  followWidth(app);
} catch (error) {
  document.documentElement.classList.remove("js"); // the static page says the same
  app.hidden = true;
  throw error;
}
