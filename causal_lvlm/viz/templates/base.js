// Building blocks of the page. Texts from outside go through textContent or setAttribute only:
// nothing here ever parses a string as HTML.

const NS = document.getElementById("seed").namespaceURI; // of SVG, without writing an address

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** An HTML element: tag, attributes ("onclick" adds a listener), children (strings are text). */
function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
function s(tag, attributes, ...children) {
  return fill(document.createElementNS(NS, tag), attributes, children);
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && Math.abs(value) < 10 ** -digits) return value.toExponential(1);
  return value.toFixed(digits);
}

/** A probability in two digits; what would look like none is said to be less than a hundredth. */
function chance(p) {
  if (p === null || p === undefined) return "–";
  return p > 0 && p < 0.005 ? "<0.01" : p.toFixed(2);
}

function plural(count, thing, many) {
  return `${count} ${count === 1 ? thing : many || thing + "s"}`;
}

const key = (list) => list.join(",");

/**
 * Let arrow keys move the focus among the items of a box, of which one is in the tab order.
 * `step(items, at, event)` may give the index to go to; by default the next or previous one.
 */
function roving(box, selector, step) {
  const items = () => [...box.querySelectorAll(selector)];
  const hold = (item) => items().forEach((i) => i.setAttribute("tabindex", i === item ? 0 : -1));
  const marked = `${selector}[aria-checked=true],${selector}[aria-selected=true],${selector}[aria-pressed=true]`;
  hold(box.querySelector(marked) || items()[0]);
  box.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) hold(item);
  });
  box.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target.closest(selector));
    if (at < 0) return;
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    let to = null;
    if (event.key === "Home") to = 0;
    else if (event.key === "End") to = all.length - 1;
    else if (move) to = step ? step(all, at, event) : (at + move + all.length) % all.length;
    if (to === null || to === undefined || !all[to]) return;
    event.preventDefault();
    all[to].focus();
  });
}

/** Enter and space press things that are no buttons, such as nodes of a drawing. */
function pressable(action) {
  return {
    onclick: action,
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      action(event);
    },
  };
}

/**
 * One of several options: a row of tabs or of radio buttons; arrow keys move and choose.
 * Options are [value, content, accessible name or null].
 */
function choice(label, options, current, pick, { tabs = false, kind = "pills" } = {}) {
  const role = tabs ? "tab" : "radio";
  const state = tabs ? "aria-selected" : "aria-checked";
  const buttons = options.map(([value, content, name]) =>
    h("button", {
      type: "button", role, [state]: String(value === current), "aria-label": name || null,
      "data-value": value, id: tabs ? `tab-${value}` : null,
      "aria-controls": tabs ? "panel" : null,
      onclick: (event) => choose(event.currentTarget, value),
    }, content));
  const box = h("div", { class: kind, role: tabs ? "tablist" : "radiogroup", "aria-label": label },
    buttons);
  function choose(button, value) {
    for (const other of buttons) other.setAttribute(state, String(other === button));
    pick(value);
  }
  roving(box, `[role=${role}]`);
  box.addEventListener("keyup", (event) => {
    const arrows = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];
    if (arrows.includes(event.key) && event.target.getAttribute(state) === "false") {
      event.target.click();
    }
  });
  return box;
}

/** Give the focus back to the chosen option of a choice that was drawn again. */
function focusChoice(box, label) {
  const again = [...box.querySelectorAll("[role=radiogroup]")].find((b) => b.getAttribute("aria-label") === label);
  again?.querySelector("[aria-checked=true]")?.focus({ preventScroll: true });
}

/** A slider with its name before it and its value in words behind it. */
function slider(name, low, high, value, say, change, step = 1) {
  const output = h("output", {}, say(value));
  const input = h("input", {
    type: "range", min: low, max: high, step, value, "aria-label": name,
    "aria-valuetext": say(value), disabled: low >= high,
    oninput: () => {
      const now = Number(input.value);
      output.textContent = say(now);
      input.setAttribute("aria-valuetext", say(now));
      change(now);
    },
  });
  return h("label", { class: "slider" }, h("span", {}, name), input, output);
}

/** Probability before and after as two bars; widths carry the numbers, which stand beside them. */
function bars(before, after, text, masked = "with the set masked") {
  const bar = (name, p, tone) =>
    h("div", { class: "bar" }, h("span", {}, name),
      h("span", { class: "track" },
        h("span", { class: `amount ${tone}`, style: `width:${(100 * (p || 0)).toFixed(1)}%` })),
      h("b", {}, chance(p)));
  return h("div", { class: "bars", role: "img",
    "aria-label": `Probability of ${text}: ${chance(before)} before, ${chance(after)} ${masked}` },
  h("p", { class: "small muted" }, `probability of “${text}”`),
  bar("as given", before, "was"), bar(masked, after, "is"));
}

const ruler = document.createElement("canvas").getContext("2d");

function textWidth(text, bold = false) {
  ruler.font = `${bold ? "600 " : ""}14px system-ui, sans-serif`;
  return ruler.measureText(text).width;
}

const clipped = (text, most = 26) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
