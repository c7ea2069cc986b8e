// Pictures, in one of three uses: painted over ("paint"), their patches and the words of the prompt
// switched off and on ("mask"), or under a map of scores whose patches can be chosen ("heat").
//
// Runs as the js_on_load of a gr.HTML: `element` is ours, `props.value` is what Python sent (see
// `causal_lvlm.app.view.board`), `trigger` tells Python. All text is set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
let state = { key: null, marked: new Set(), strokes: [], drawing: null, timer: null, sweep: null };

function make(name, attributes, parent, text) {
  const svg = ["svg", "image", "g", "rect", "polyline", "title", "text"].includes(name);
  const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

// Dark blue to yellow (cividis); scores run from 0 to 1.
function shade(score) {
  const stops = [[0, 34, 78], [67, 78, 108], [124, 123, 120], [187, 174, 106], [255, 234, 70]];
  const at = Math.min(0.9999, Math.max(0, score)) * (stops.length - 1);
  const low = stops[Math.floor(at)];
  const high = stops[Math.floor(at) + 1];
  return "rgb(" + low.map((v, k) => Math.round(v + (high[k] - v) * (at % 1))).join(",") + ")";
}

function tell() {
  clearTimeout(state.timer);
  state.timer = setTimeout(() => {
    trigger("select", { positions: [...state.marked].map(Number) });
  }, 150);
}

function show(node, on) {
  node.classList.toggle("on", on);
  if (node.hasAttribute("aria-checked")) node.setAttribute("aria-checked", String(on));
}

function toggle(position, on) {
  const value = given();
  if (value.mode === "heat") {
    state.marked = new Set(on ? [position] : []);
  } else if (on) {
    state.marked.add(position);
  } else {
    state.marked.delete(position);
  }
  for (const node of element.querySelectorAll("[data-position]")) {
    show(node, state.marked.has(node.dataset.position));
  }
  tell();
}

// Position -> number of the member of the explaining set that it belongs to, counted from 1.
function numbers(value) {
  const found = new Map();
  (value.members || []).forEach((positions, index) => {
    positions.forEach((position) => found.set(String(position), index + 1));
  });
  return found;
}

function cellNodes(svg, picture, value) {
  const group = make("g", { class: "cells" }, svg);
  const signs = make("g", { class: "signs", "aria-hidden": "true" }, svg);
  const member = numbers(value);
  picture.cells.forEach((cell, index) => {
    const [left, top, right, bottom, position, label, score] = cell;
    const box = { x: left, y: top, width: right - left, height: bottom - top };
    const number = member.get(String(position));
    const said = label + (number ? `, number ${number} of the explaining set` : "");
    const node = make("rect", {
      ...box, class: number ? "cell member" : "cell", "data-position": position,
      role: "checkbox", "aria-checked": "false", "aria-label": said,
      tabindex: index === 0 ? "0" : "-1",
    }, group);
    make("title", {}, node, said + (score === null ? "" : ": " + score.toPrecision(3)));
    if (number) {
      const size = Math.min(box.width, box.height) * 0.42;
      make("rect", { ...box, class: "outline" }, signs);
      make("text", {
        x: left + size * 0.18, y: top + size * 0.92, "font-size": size, class: "number",
      }, signs, String(number));
    }
    if (value.mode === "heat" && score !== null) {
      const high = value.highest || 1;
      node.style.fill = shade(Math.max(0, score) / high);
      node.style.fillOpacity = 0.72;
    }
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      node.focus();
      if (node.hasPointerCapture && node.hasPointerCapture(event.pointerId)) {
        node.releasePointerCapture(event.pointerId); // touch would keep all moves at this cell
      }
      state.sweep = !state.marked.has(String(position));
      toggle(String(position), state.sweep);
    });
    node.addEventListener("pointerenter", (event) => {
      const swept = event.buttons === 1 && state.sweep !== null && value.mode === "mask";
      if (swept && state.marked.has(String(position)) !== state.sweep) {
        toggle(String(position), state.sweep);
      }
    });
    node.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -picture.cols, ArrowDown: picture.cols };
      if (event.key === " " || event.key === "Enter") {
        event.preventDefault();
        toggle(String(position), !state.marked.has(String(position)));
      } else if (event.key in moves) {
        event.preventDefault();
        const next = group.children[index + moves[event.key]];
        if (next) {
          node.setAttribute("tabindex", "-1");
          next.setAttribute("tabindex", "0");
          next.focus();
        }
      }
    });
  });
}

function wordNodes(value) {
  if (!value.words.length) return;
  const row = make("div", { class: "words", role: "group", "aria-label": "words" }, element);
  const member = numbers(value);
  for (const [position, text, free, score] of value.words) {
    if (!free) {
      const still = make("span", { class: "frame-word" }, row, text);
      if (score !== undefined && score !== null) {
        still.classList.add("weighed");
        still.style.setProperty("--weight", String(Math.max(0, score) / (value.highest || 1)));
        still.title = score.toPrecision(3);
      }
      continue;
    }
    const number = member.get(String(position));
    const node = make("button", {
      type: "button", class: number ? "word member" : "word", "data-position": position,
      role: "checkbox", "aria-checked": "false",
      "aria-label": number ? `${text}, number ${number} of the explaining set` : null,
    }, row, text);
    if (number) make("sup", {}, node, String(number));
    node.addEventListener("click", () => {
      toggle(String(position), !state.marked.has(String(position)));
    });
  }
}

function place(svg, event) {
  const point = new DOMPoint(event.clientX, event.clientY);
  const at = point.matrixTransform(svg.getScreenCTM().inverse());
  return [Math.round(at.x * 100) / 100, Math.round(at.y * 100) / 100];
}

function paintTools(svg, value) {
  const bar = make("div", { class: "tools" }, element);
  const size = make("input", {
    type: "range", min: 2, max: 40, value: 12, "aria-label": "brush size in percent",
  }, make("label", {}, bar, "Brush "));
  const ink = make("input", {
    type: "color", value: "#808080", "aria-label": "brush colour",
  }, make("label", {}, bar, "Colour "));
  const undo = make("button", { type: "button" }, bar, "Undo");
  const clear = make("button", { type: "button" }, bar, "Clear");
  const layer = make("g", {}, svg);
  const drawn = () => {
    layer.replaceChildren();
    for (const stroke of state.strokes) {
      make("polyline", {
        points: [...stroke.points, stroke.points[stroke.points.length - 1]].join(" "),
        stroke: stroke.colour, "stroke-width": stroke.width, fill: "none",
        "stroke-linecap": "round", "stroke-linejoin": "round",
      }, layer);
    }
  };
  const done = () => {
    drawn();
    trigger("input", { strokes: state.strokes });
  };
  svg.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    svg.setPointerCapture(event.pointerId);
    const width = (Math.min(value.width, value.height) * size.value) / 100;
    state.drawing = { points: [place(svg, event)], width, colour: ink.value };
    state.strokes.push(state.drawing);
    drawn();
  });
  svg.addEventListener("pointermove", (event) => {
    if (!state.drawing) return;
    state.drawing.points.push(place(svg, event));
    drawn();
  });
  const end = () => {
    if (!state.drawing) return;
    state.drawing = null;
    done();
  };
  svg.addEventListener("pointerup", end);
  svg.addEventListener("pointercancel", end);
  undo.addEventListener("click", () => { state.strokes.pop(); done(); });
  clear.addEventListener("click", () => { state.strokes = []; done(); });
}

function given() {
  return props.value ? JSON.parse(props.value) : {};
}

function hide(positions) {
  state.marked = new Set(positions);
  for (const node of element.querySelectorAll("[data-position]")) {
    show(node, state.marked.has(node.dataset.position));
  }
  tell();
}

function draw() {
  const value = given();
  element.querySelectorAll(":scope > *").forEach((node) => node.remove());
  if (!value || !value.mode) return;
  // What is hidden stays hidden when the same words get other signs: a search may end meanwhile.
  const same = value.key !== null && value.key === state.key;
  const marked = same ? state.marked : new Set();
  clearTimeout(same ? null : state.timer);
  state = {
    key: value.key, marked, strokes: [], drawing: null, timer: same ? state.timer : null,
    sweep: null,
  };
  element.classList.add("board", "board-" + value.mode);
  element.classList.remove(...["paint", "mask", "heat"].filter((m) => m !== value.mode)
    .map((m) => "board-" + m));
  const row = make("div", { class: "pictures" }, element);
  for (const picture of value.pictures) {
    const svg = make("svg", {
      viewBox: `0 0 ${picture.width} ${picture.height}`, role: "group", "aria-label": picture.alt,
    }, row);
    make("image", { href: picture.image, width: picture.width, height: picture.height }, svg);
    if (value.mode === "paint") paintTools(svg, picture);
    else cellNodes(svg, picture, value);
  }
  if (!value.pictures.length) make("p", { class: "empty" }, element, value.alt || "No picture.");
  wordNodes(value);
  for (const node of element.querySelectorAll("[data-position]")) {
    show(node, state.marked.has(node.dataset.position));
  }
  if (value.mode === "mask" && element.querySelector("[data-position]")) {
    const bar = make("div", { class: "tools" }, element);
    if (value.offer) {
      const all = make("button", { type: "button", class: "hide-set" }, bar, value.offer.text);
      all.addEventListener("click", () => hide(value.offer.positions.map(String)));
    }
    const none = make("button", { type: "button" }, bar, "Show all again");
    none.addEventListener("click", () => hide([]));
  }
}

window.addEventListener("pointerup", () => { state.sweep = null; });
watch("value", draw);
draw();
