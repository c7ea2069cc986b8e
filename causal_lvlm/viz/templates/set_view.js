// The explaining set on the image and in the prompt, with probability before and after.

function setView(run, explanation, state, panel, redraw) {
  const found = explanation.sets[state.set];
  const box = h("div", { class: "split" });
  const drawing = h("div", { class: "drawing" });
  const side = h("div", { class: "side" });
  box.append(drawing, side);
  if (explanation.sets.length > 1) {
    const options = explanation.sets.map((item, at) => [at, item.title]);
    panel.append(choice("Which set", options, state.set, (at) => redraw({ set: at, k: null, scope: SCOPE_OF[explanation.sets[at].name] || "all" })));
  }
  panel.append(box);

  const width = Math.max(280, drawing.clientWidth);
  const numbers = new Map();
  found.units.forEach((unit, at) => unit.forEach((p) => numbers.set(p, at + 1)));
  const what = found.units.length ? inWords(run, found.units) : "no member";
  const stage = makeStage(run, width, {
    words: candidateWords(run, explanation.positions[0]), target: explanation.positions,
    targetText: explanation.text, label: `${found.title}: ${what}`,
    height: isWide(run, width) || width >= 500 ? roomBelow(drawing, 34 + (isWide(run, width) ? 0 : wordRows(run, explanation, width)))
      : roomBelow(drawing, 10, 200), // on a phone the image comes first
    beside: true,
  });
  for (const [p] of run.cells) {
    const place = stage.place([p]);
    stage.back.append(s("rect", { x: place.x, y: place.y, width: place.w, height: place.h,
      class: "grid" }));
  }
  for (const p of candidateWords(run, explanation.positions[0])) {
    if (!numbers.has(p)) stage.front.append(...pill(stage.place([p]), "faint"));
  }
  stage.front.append(...pill(stage.place(explanation.positions), "target"));
  found.units.forEach((unit, at) => {
    const parts = unit.map((p) => stage.place([p])).filter(Boolean);
    for (const place of parts) {
      stage.front.append(...(place.patch ? frame(place, "cause") : pill(place, "cause")));
    }
    if (parts.length) stage.front.append(tag(stage.place(unit), at + 1));
  });
  drawing.append(stage.svg);

  const members = found.units.map((unit) => h("li", {}, unitName(run, unit)));
  const lines = [
    state.set === explanation.main ? null // those of the main set stand above
      : h("p", {}, found.badges.map(([tone, text]) => h("span", { class: `badge ${tone}` }, text))),
    found.after === null ? h("p", {}, `${found.outcome[0].toUpperCase()}${found.outcome.slice(1)}.`) // no set, no bar
      : bars(found.before, found.after, explanation.text,
        explanation.mode === "sufficient" ? "with only the set kept" : "with the set masked"),
    found.said ? h("p", {}, "Then the model ", h("b", {}, found.said), ".") : null,
    members.length ? h("ol", { class: "members" }, members) : null,
    found.random ? h("p", { class: "small muted" }, found.random + ".") : null,
    h("p", { class: "small muted" }, `${found.runs ? plural(found.runs, "masked model run") : "No masked model run besides those of the other sets"} for this set, `
      + `${explanation.runs} in all.`),
  ];
  side.append(...lines.filter((line) => line !== null)); // `append` would write "null"
}

/** Sets and the tokens that methods are compared on. */
const SCOPE_OF = { joint: "all", image: "image", text: "text", custom: "all" };

/** About how many pixels of height the words below an image need. */
function wordRows(run, explanation, width) {
  const words = candidateWords(run, explanation.positions[0]);
  const rows = (list) => Math.ceil(list.reduce((sum, p) => sum + Math.max(38, textWidth(run.tokens[p]) + 26), 0) / width);
  const [asked, said] = [words.filter((p) => p < run.nPrompt), [...words.filter((p) => p >= run.nPrompt), ...explanation.positions]];
  return 28 * 2 + 42 * (rows(asked) + rows(said));
}
