// The stage: images side by side, below them the words of prompt and answer, in one drawing whose
// unit is a pixel of the screen. It knows where every position lies; views draw on it. A layered
// stage has the target between image and words, so that edges from both sides reach it in the open.

/** Put each image of a run into the page once; all drawings refer to it. */
function defineImages(run) {
  const defs = s("defs", {}, run.images.map((image, number) =>
    s("image", { id: `${run.key}-image${number}`, href: photograph(run, number), width: image.width,
      height: image.height, preserveAspectRatio: "none",
      style: image.pixels ? "image-rendering:pixelated" : null })));
  document.getElementById("seed").replaceChildren(defs);
}

/** The static part of the page holds every image; it is not in the page twice. */
const photograph = (run, number) => document.getElementById(`${run.key}-photo${number}`).getAttribute("src");

const isImage = (run, position) => run.kinds[position] === "i";

function shortName(run, members) {
  if (members.length === 1) return run.labels[members[0]];
  if (isImage(run, members[0])) return `${run.labels[members[0]]}–${run.labels[members.at(-1)]}`;
  return `“${members.map((p) => run.tokens[p]).join("").trim()}”`;
}

/** What a unit is called in a sentence: the patch [3,2], or the word in quotes. */
function unitName(run, members) {
  if (!isImage(run, members[0])) return shortName(run, members);
  return (members.length > 1 ? "patches " : "patch ") + shortName(run, members);
}

/** “3 patches and 2 words”. */
function inWords(run, units) {
  const patches = units.filter((u) => isImage(run, u[0]));
  const image = patches.length;
  const words = units.length - image;
  const parts = [];
  const pooled = patches.some((u) => u.length > 1); // masked as one: several cells of the image
  if (image) parts.push(pooled ? plural(image, "block of patches", "blocks of patches") : plural(image, "patch", "patches"));
  if (words || !image) parts.push(plural(words, "word"));
  return parts.join(" and ");
}

/**
 * Lay out a run in `width` pixels.
 * options: words: positions drawn as words; target: positions of the target, drawn as its text;
 * gap: space between rows of words; height: most pixels of an image.
 */
function makeStage(run, width, options) {
  const { words, target, targetText, gap = 14, height: most = 520 } = options;
  const places = new Map();
  const svg = s("svg", { class: "stage", role: "group", "aria-label": options.label });
  const back = s("g", {});
  const pictures = s("g", {}); // the images alone, below everything
  const front = s("g", {});
  svg.append(pictures, back, front);
  const beside = options.beside && isWide(run, width);
  const left = beside ? Math.min((run.images[0].width * most) / run.images[0].height, width - 200) : 0;
  let y = imagesOf(run, left || width, most, places, pictures);
  const tall = beside ? y : 0;
  if (beside) y = 0;
  const from = left ? left + 26 : 0;
  const rows = [["prompt", words.filter((p) => p < run.nPrompt)],
    ["answer", words.filter((p) => p >= run.nPrompt)]];
  for (const [name, positions] of rows) {
    const pills = positions.map((p) => ({ at: [p], text: clipped(run.tokens[p]) }));
    if (name === "answer" && target) pills.push({ at: target, text: clipped(targetText), bold: true });
    if (!pills.length) continue;
    const lead = beside && !y ? 4 : gap;
    back.append(s("text", { x: from, y: y + lead + 8, class: "row-name" }, name));
    y = rowOfWords(pills, width, y + lead + 14, gap, places, from);
  }
  y = Math.max(y, tall) + 6;
  fill(svg, { width, height: y, viewBox: `0 0 ${width} ${y}` }, []);
  return { svg, back, front, width, height: y, place: (members) => placeOf(places, members) };
}

function imagesOf(run, width, most, places, layer) {
  const count = run.images.length;
  if (!count) return 0;
  const columns = count === 1 ? 1 : width < 560 ? Math.min(2, count) : Math.min(3, count);
  const room = (width - 12 * (columns - 1)) / columns;
  const spots = [];
  let y = 0;
  for (let start = 0; start < count; start += columns) {
    let tallest = 0;
    const head = count > 1 ? 20 : 0;
    for (let n = start; n < Math.min(start + columns, count); n += 1) {
      const image = run.images[n];
      const factor = Math.min(room / image.width, most / image.height);
      const left = (n - start) * (room + 12) + (room - image.width * factor) / 2;
      if (head) layer.append(s("text", { x: left, y: y + 14, class: "row-name" }, `image ${n}`));
      layer.append(s("use", { href: `#${run.key}-image${n}`,
        transform: `translate(${left} ${y + head}) scale(${factor})` }));
      spots[n] = { left, top: y + head, factor };
      tallest = Math.max(tallest, image.height * factor + head);
    }
    y += tallest + 10;
  }
  for (const [position, n, l, t, r, b] of run.cells) {
    const { left, top, factor } = spots[n];
    places.set(position, { patch: true, image: n, x: left + l * factor, y: top + t * factor,
      w: (r - l) * factor, h: (b - t) * factor });
  }
  return y - 4;
}

/** Whether there is room for words beside the image. */
const isWide = (run, width) => width >= 620 && run.images.length === 1 && run.cells.length > 0;

function rowOfWords(pills, width, top, gap, places, from = 0) {
  let x = from;
  let y = top;
  for (const pill of pills) {
    const wide = Math.min(width - from, Math.max(30, textWidth(pill.text, pill.bold) + 18));
    if (x > from && x + wide > width) {
      x = from;
      y += 28 + gap;
    }
    for (const p of pill.at) {
      places.set(p, { patch: false, x, y, w: wide, h: 28, text: pill.text, bold: pill.bold });
    }
    x += wide + (gap > 20 ? 16 : 8);
  }
  return y + 28;
}

/** Pixels of height that are left below `box` on the first screen, within sensible bounds. */
function roomBelow(box, taken, least = 240, most = 520) {
  const top = box.getBoundingClientRect().top + window.scrollY;
  return Math.max(least, Math.min(most, window.innerHeight - top - taken));
}

/**
 * Lay out a run with the target as a bar between image and words: image, bar, words from left to
 * right where there is room, else from top to bottom. options: as for `makeStage`; ports: most edges
 * that one side of the bar has to receive.
 */
function makeLayers(run, width, options) {
  const { words, target, targetText, ports, height: most } = options; // nodes: positions that are some
  const places = new Map();
  const svg = s("svg", { class: "stage", role: "group", "aria-label": options.label });
  const [pictures, back, front] = [s("g", {}), s("g", {}), s("g", {})];
  svg.append(pictures, back, front);
  const flat = isWide(run, width);
  // Words that are no nodes only keep others company: not where they would take room from the image.
  const limit = flat ? Math.max(4, Math.floor(most / 31) - 2) : 8;
  const pills = (words.length > limit ? words.filter((p) => options.nodes.has(p)) : words).map((p) => ({ at: [p], text: clipped(run.tokens[p], 16) }));
  const text = clipped(targetText, 18);
  const wide = Math.max(56, textWidth(text, true) + 20);
  let bar, tall;
  if (flat) {
    const image = run.images[0];
    const [before, after, margin] = [96, 76, 34];
    const widest = Math.max(60, ...pills.map((p) => Math.max(30, textWidth(p.text) + 18)));
    const rows = Math.max(4, Math.floor(most / 31));
    const columns = Math.max(1, Math.ceil((pills.length + 2) / rows));
    const room = Math.max(220, width - wide - before - after - margin - columns * (widest + 18));
    const left = Math.min(room, (image.width * most) / image.height);
    tall = imagesOf(run, left, most, places, pictures) - 4;
    const high = Math.min(Math.max(34, 13 * ports + 8), Math.max(tall, 34));
    bar = { x: left + before, y: (tall - high) / 2, w: wide, h: high };
    tall = Math.max(tall, columnsOfWords(run, pills, bar.x + wide + after, tall, widest + 18, columns, places, back));
  } else {
    const top = imagesOf(run, width, most, places, pictures);
    const long = Math.min(width, Math.max(wide, 13 * ports + 8));
    bar = { x: (width - long) / 2, y: top ? top + 56 : 0, w: long, h: 32 };
    tall = bar.y + 32;
    for (const [name, mine] of [["prompt", pills.filter((p) => p.at[0] < run.nPrompt)],
      ["answer", pills.filter((p) => p.at[0] >= run.nPrompt)]]) {
      if (!mine.length) continue;
      const first = tall === bar.y + 32;
      back.append(s("text", { x: width, y: tall + (first ? 56 : 26), class: "row-name", "text-anchor": "end" }, name));
      tall = rowOfWords(mine, width, tall + (first ? 62 : 32), 22, places);
    }
  }
  for (const p of target) places.set(p, { patch: false, bar: true, flat, ...bar, text, bold: true });
  tall += 8;
  fill(svg, { width, height: tall, viewBox: `0 0 ${width} ${tall}` }, []);
  return { svg, back, front, width, height: tall, flat, place: (members) => placeOf(places, members) };
}

/** Words below each other, prompt before answer, in as many columns as they need. */
function columnsOfWords(run, pills, left, tall, wide, columns, places, back) {
  const rows = [];
  for (const [name, mine] of [["prompt", pills.filter((p) => p.at[0] < run.nPrompt)],
    ["answer", pills.filter((p) => p.at[0] >= run.nPrompt)]]) {
    if (mine.length) rows.push({ name }, ...mine);
  }
  const each = Math.ceil(rows.length / columns);
  const step = Math.max(30, Math.min(44, tall / Math.max(1, each)));
  const start = Math.max(0, (tall - each * step) / 2);
  rows.forEach((row, at) => {
    const x = left + Math.floor(at / each) * wide;
    const y = start + (at % each) * step;
    if (row.name) back.append(s("text", { x, y: y + step - 8, class: "row-name over" }, row.name));
    else places.set(row.at[0], { patch: false, x, y: y + (step - 28) / 2, w: Math.max(30, textWidth(row.text) + 18), h: 28, text: row.text });
  });
  return start + each * step;
}

/** Where a unit lies: the rectangle around its members; null if it is not on the stage. */
function placeOf(places, members) {
  const found = members.map((p) => places.get(p)).filter(Boolean);
  if (!found.length) return null;
  const first = found[0];
  const same = found.filter((f) => f.patch === first.patch && f.image === first.image);
  const x = Math.min(...same.map((f) => f.x));
  const y = Math.min(...same.map((f) => f.y));
  const w = Math.max(...same.map((f) => f.x + f.w)) - x;
  const tall = Math.max(...same.map((f) => f.y + f.h)) - y;
  return { ...first, x, y, w, h: tall, cx: x + w / 2, cy: y + tall / 2 };
}

/** A word as a pill with its text; `kind` is a class: word, cause, target, faint. */
function pill(place, kind, text) {
  return [s("rect", { x: place.x + 1, y: place.y + 1, width: place.w - 2, height: place.h - 2, rx: 6,
    class: `pill ${kind}` }),
  s("text", { x: place.x + place.w / 2, y: place.y + place.h / 2 + 5, class: `pill-text ${kind}` },
    text === undefined ? place.text : text)];
}

/** The frame of a patch: a light line inside a dark one is seen on any image. */
function frame(place, kind) {
  const box = { x: place.x, y: place.y, width: place.w, height: place.h };
  return [s("rect", { ...box, class: `halo ${kind}` }), s("rect", { ...box, class: `cell ${kind}` })];
}

/** The number of a member of the set, in its corner; `outside` leaves the patch to what is drawn in it. */
function tag(place, number, outside = false) {
  const text = String(number);
  const wide = Math.max(17, 8 * text.length + 8);
  if (outside && place.patch) {
    const at = Math.max(0, place.x - wide + 5);
    return s("g", { class: "tag", "aria-hidden": "true" },
      s("rect", { x: at, y: Math.max(0, place.y - 7), width: wide, height: 16, rx: 8 }),
      s("text", { x: at + wide / 2, y: Math.max(0, place.y - 7) + 12 }, text));
  }
  const small = place.patch && place.w < 34;
  const x = small ? place.cx - wide / 2 : place.patch ? place.x + 2 : place.x + place.w - wide + 5;
  const y = small ? place.cy - 8 : place.patch ? place.y + 2 : place.y - 8;
  return s("g", { class: "tag", "aria-hidden": "true" },
    s("rect", { x, y, width: wide, height: 16, rx: 8 }),
    s("text", { x: x + wide / 2, y: y + 12 }, text));
}

const patchesAndWords = (run) => (run.cells.length ? "patches and words" : "words");

/** Words that are candidates for a target: prompt and what was said before it. */
function candidateWords(run, start) {
  const found = [];
  for (let p = 0; p < start; p += 1) if ("pg".includes(run.kinds[p])) found.push(p);
  return found;
}

/** Which words are drawn: all of a short prompt, else those that matter. */
function wordsToShow(run, start, needed, most = 36) {
  const wanted = new Set(needed);
  const special = [...wanted].filter((p) => run.kinds[p] === "s"); // verified edges may lead into them
  const all = [...candidateWords(run, start), ...special].sort((a, b) => a - b);
  if (all.length <= most) return all;
  return all.filter((p) => wanted.has(p));
}
