// What if: choose patches and words to mask, and see what the model said under that mask, as far as
// it was asked when the explanation was made.

function maskView(run, explanation, state, panel) {
  const units = explanation.units;
  const unitOf = new Map();
  units.forEach((members, at) => members.forEach((p) => unitOf.set(p, at)));
  const tried = [...explanation.tried, ...askedUnits(explanation, unitOf)];
  const stored = new Map(tried.map((t) => [key([...t[0]].sort((a, b) => a - b)), t]));
  const singles = new Map(tried.filter((t) => t[0].length === 1).map((t) => [t[0][0], t]));
  const { before } = explanation;
  const answer = h("div", { class: "answer", "aria-live": "polite", tabindex: -1 });
  const nearby = h("div", {});
  const drawing = h("div", { class: "drawing" });
  // What verified a set that is enough is masking all that it leaves out, within its scope.
  const kept = explanation.mode === "sufficient";
  const presets = explanation.sets.filter((item) => item.units.length).map((item) =>
    h("button", { type: "button", onclick: () => load(kept ? restOf(item) : unitsOf(item)) },
      `${kept ? "all but the set" : "the set"}: ${item.title.toLowerCase()}`));
  const unitsOf = (item) => item.units.map((u) => unitOf.get(u[0])).filter((u) => u !== undefined);
  function restOf(item) {
    const left = new Set(unitsOf(item));
    const inside = { image: (u) => isImage(run, u[0]), text: (u) => !isImage(run, u[0]) }[item.name] || (() => true);
    return units.map((u, at) => (inside(u) && !left.has(at) ? at : -1)).filter((at) => at >= 0);
  }
  panel.append(h("p", { class: "small" },
    `Click ${patchesAndWords(run)} to mask them. What the model said is stored for `
    + `${plural(stored.size, "mask")} that the search tried or methods were compared with; any other needs the model.`),
  h("div", { class: "controls" }, h("span", {}, "Mask"), presets,
    h("button", { type: "button", onclick: () => load([]) }, "nothing")),
  h("div", { class: "split" }, drawing, h("div", { class: "side" }, answer, nearby)));

  const stage = makeStage(run, Math.max(280, drawing.clientWidth), { words: candidateWords(run, explanation.positions[0]),
    target: explanation.positions, targetText: explanation.text, gap: 10, beside: true,
    height: drawing.clientWidth < 500 ? 520 : roomBelow(drawing, 40), label: `The ${patchesAndWords(run)} that can be masked` });
  const toggles = units.map((members, at) => {
    const places = members.map((p) => stage.place([p])).filter(Boolean);
    const known = singles.get(at);
    const drop = known && before ? Math.max(0, 1 - known[1] / before) : 0;
    const note = known ? `; alone: probability ${chance(known[1])}` : "";
    const group = s("g", { class: known ? "toggle known" : "toggle", role: "checkbox", tabindex: -1, "data-unit": at,
      "aria-checked": "false", "aria-label": unitName(run, members) + note, ...pressable(() => flip(at)) },
    s("title", {}, unitName(run, members) + note),
    places.map((place) => (place.patch
      ? [s("rect", { x: place.x, y: place.y, width: place.w, height: place.h, class: "maskable" }),
        known ? s("circle", { cx: place.cx, cy: place.cy, r: 2 + 6 * Math.sqrt(drop), class: "effect" }) : null]
      : [pill(place, "word"), known ? s("circle", { cx: place.x + place.w - 4, cy: place.y + 4, r: 2 + 5 * Math.sqrt(drop), class: "effect" }) : null])));
    stage.front.append(group);
    return { group, place: stage.place(members) };
  });
  const fixed = candidateWords(run, explanation.positions[0]).filter((p) => !unitOf.has(p));
  for (const p of fixed) stage.back.append(...pill(stage.place([p]), "faint"));
  stage.back.append(...pill(stage.place(explanation.positions), "target"));
  drawing.append(stage.svg);
  if (singles.size) {
    drawing.append(h("p", { class: "small muted" }, "A dot: masking that one alone was tried. The larger it is, the more the probability falls."));
  }
  if (toggles.length) roving(stage.svg, "[data-unit]", nearest);
  show();

  function nearest(all, at, event) {
    const from = toggles[Number(all[at].dataset.unit)].place;
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    let best = null;
    let least = Infinity;
    all.forEach((item, to) => {
      const place = toggles[Number(item.dataset.unit)].place;
      const along = (place.cx - from.cx) * dx + (place.cy - from.cy) * dy;
      const aside = Math.abs((place.cx - from.cx) * dy) + Math.abs((place.cy - from.cy) * dx);
      if (along > 1 && along + 3 * aside < least) [best, least] = [to, along + 3 * aside];
    });
    return best;
  }
  function flip(at) {
    if (!state.masked.delete(at)) state.masked.add(at);
    show();
  }
  function load(list) {
    state.masked.clear();
    list.forEach((at) => state.masked.add(at));
    show();
  }
  function names(list) {
    const named = (some) => some.map((u) => unitName(run, u)).join(", ");
    const masked = new Set(list);
    const left = units.filter((_, at) => !masked.has(at));
    if (list.length <= 6) return named(list.map((at) => units[at]));
    if (!left.length) return "everything";
    return left.length <= 8 ? `everything but ${named(left)}` : inWords(run, list.map((at) => units[at]));
  }
  function show() {
    toggles.forEach(({ group }, at) => group.setAttribute("aria-checked", String(state.masked.has(at))));
    const now = [...state.masked].sort((a, b) => a - b);
    const found = stored.get(key(now));
    if (!now.length) {
      answer.replaceChildren(h("h4", {}, "Nothing is masked"), bars(before, before, explanation.text, "now"),
        h("p", {}, "The model says ", h("b", {}, `“${explanation.text}”`), "."));
    } else if (found) {
      answer.replaceChildren(h("h4", {}, `Masked: ${names(now)}`), bars(before, found[1], explanation.text, "masked"),
        h("p", {}, "The model ", h("b", {}, found[2]), found[3] ? ": the answer changes." : ": the answer stays."));
    } else {
      answer.replaceChildren(h("h4", {}, `Masked: ${names(now)}`),
        h("p", {}, "Nobody asked the model this. It was not among the masks that were tried."));
    }
    const chosen = new Set(now);
    const distance = (t) => t[0].filter((u) => !chosen.has(u)).length + now.filter((u) => !t[0].includes(u)).length;
    const close = [...stored.values()].map((t) => [distance(t), t]).filter(([d]) => d > 0)
      .sort((a, b) => (now.length ? a[0] - b[0] : 0) || Number(b[1][3]) - Number(a[1][3]) || a[0] - b[0] || a[1][1] - b[1][1])
      .slice(0, 8);
    nearby.replaceChildren(...(close.length ? [h("h4", {}, now.length ? "Stored masks near this one" : "Masks that change the answer, and others"),
      h("ul", { class: "edges" }, close.map(([, t]) => h("li", {}, h("button", { type: "button", class: "link",
        onclick: () => {
          load(t[0]);
          answer.focus({ preventScroll: true }); // the list is a new one
        } }, `${names(t[0])}: p ${chance(t[1])}, ${t[2]}`))))] : []));
  }
}

/** Masks with which methods were compared, as units; those that cut a unit in two are left out. */
function askedUnits(explanation, unitOf) {
  if (explanation.mode !== "necessary") return [];
  const found = [];
  for (const [positions, p, said, changed] of explanation.asked) {
    const units = [...new Set(positions.map((at) => unitOf.get(at)))];
    const whole = units.every((u) => u !== undefined) && units.reduce((n, u) => n + explanation.units[u].length, 0) === positions.length;
    if (whole) found.push([units, p, said, changed]);
  }
  return found;
}
