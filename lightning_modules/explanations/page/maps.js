"use strict";

// Maps over pictures and words, and the tooltip.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const OUTLINE = 160; // longer side of a drawn map, in pixels

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

// ------------------------------------------------------------------------- relevance and colour

const method = () => data.methods[byId("method").value];

/** The map of class t by the method chosen: its values, row by row, and how they are coloured. */
function mapOf(part, t) {
  const { signed } = method();
  return mapsOf(part.maps[method().name], [t], signed, table(part.shown))[0];
}

/** Some of the maps that are encoded together, on one scale of colours. */
function mapsOf({ shape: [rows, columns], values, pixels }, chosen, signed, colors) {
  const found = chosen.map((t) =>
    new Float32Array(Uint8Array.from(atob(values[t]), (c) => c.charCodeAt(0)).buffer));
  let low = Infinity, high = -Infinity;
  for (const x of found.flatMap((numbers) => [...numbers])) {
    if (Number.isNaN(x)) continue;
    low = Math.min(low, x);
    high = Math.max(high, x);
  }
  const most = signed ? Math.max(high, -low) : high;
  if (signed) [low, high] = [-most, most];
  // 0..1 from the least to the highest; a flat map is at its least, a signed one at 0.
  const place = (x) => (high > low ? (x - low) / (high - low) || 0 : signed ? 0.5 : 0);
  return found.map((numbers) => ({ values: numbers, rows, columns, pixels, signed, most, place, colors }));
}

/** The colours of what is shown so, by the method chosen. */
const table = (shown) => data.colors[shown][method().signed ? "diverging" : "sequential"];
const colorAt = (place, colors) => colors[Math.round(place * (colors.length - 1))];
const css = (color) => `rgb(${color.join(" ")})`;

/** Black or white, whichever stands out more (relative luminance as in WCAG). */
function inkOn(color) {
  const [r, g, b] = color.map((c) => (c / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

/** For each of n pixels, between which two of `cells` it is, and how far from the first. */
function between(n, cells) {
  return Array.from({ length: n }, (_, i) => {
    const x = Math.min(Math.max(((i + 0.5) / n) * cells - 0.5, 0), cells - 1);
    const first = Math.floor(x);
    return [first, Math.min(first + 1, cells - 1), x - first];
  });
}

/** The map, interpolated, the more opaque the stronger: what is irrelevant stays recognisable. */
function paint(canvas, map) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const across = between(width, map.columns);
  const mix = (a, b, share) => a + (b - a) * share;
  let i = 0;
  for (const [top, bottom, down] of between(height, map.rows)) {
    for (const [left, right, share] of across) {
      const at = (row, column) => map.values[row * map.columns + column];
      const upper = mix(at(top, left), at(top, right), share);
      const lower = mix(at(bottom, left), at(bottom, right), share);
      const place = map.place(mix(upper, lower, down));
      image.data.set(colorAt(place, map.colors), i);
      image.data[i + 3] = 255 * (0.2 + 0.6 * (map.signed ? Math.abs(2 * place - 1) : place));
      i += 4;
    }
  }
  context.putImageData(image, 0, 0);
}

// ------------------------------------------------------------------------------------- tooltip

/** What is known about a cell: its value, its share of the highest, and then `where`. */
function showTip(map, index, where, box) {
  const value = map.values[index];
  const lines = Number.isNaN(value)
    ? [...where, "cut off: the model did not see it"]
    : [Number(value.toPrecision(6)), ...shareLine(map, value), ...where];
  const tip = byId("tip");
  tip.replaceChildren(...lines.map((line) => make("div", "", line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = Math.min(Math.max(box.left + box.width / 2 - width / 2, 4), innerWidth - width - 4);
  const y = box.top - height - 8 > 0 ? box.top - height - 8 : box.bottom + 8;
  tip.style.transform = `translate(${x + scrollX}px, ${y + scrollY}px)`;
}

function shareLine(map, value) {
  if (!(map.most > 0)) return [];
  return [`${percent(value / map.most)} of the ${map.signed ? "strongest" : "highest"}`];
}

let unmark = () => {};

function hideTip() {
  byId("tip").hidden = true;
  unmark();
  unmark = () => {};
}

/** Pointer and arrow keys over the cells of an element: `show(index)` marks and describes one. */
function explore(element, shape, indexAt, show) {
  let index = 0;
  const go = (next) => {
    const [rows, columns] = shape();
    index = Math.min(next, rows * columns - 1); // the method before may have had more cells
    hideTip();
    show(index);
  };
  const point = (event) => {
    const next = indexAt(event);
    if (next === null) hideTip();
    else go(next);
  };
  element.tabIndex = 0;
  element.addEventListener("pointermove", point);
  element.addEventListener("pointerdown", point); // a tap
  element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideTip());
  element.addEventListener("blur", hideTip);
  element.addEventListener("focus", () => element.matches(":focus-visible") && go(index));
  element.addEventListener("keydown", (event) => {
    const [rows, columns] = shape();
    const [down, right] =
      { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    const row = Math.floor(index / columns) + down, column = (index % columns) + right;
    const inside = row >= 0 && row < rows && column >= 0 && column < columns;
    go(inside ? row * columns + column : index);
  });
}

// --------------------------------------------------------------------------------------- cards

function pictureFrame(part) {
  const frame = make("div", part.tiny ? "frame tiny" : "frame");
  const [width, height] = part.size;
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.width = `min(100%, ${200 * Math.min(1, width / height)}px)`;
  const image = make("img");
  image.alt = "";
  frame.append(image);
  return frame;
}

/** Where an element lies in its frame, in shares of the picture's width and height. */
function placeAt(element, x, y, w, h) {
  Object.assign(element.style, {
    left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * w}%`, height: `${100 * h}%`,
  });
}

/**
 * A picture under the map of class t; returns the element and what draws it.
 * `chosen(cell, map)` is called when a cell is marked; it returns what is to be said of it, lines,
 * and what is called when it is marked no longer.
 */
function pictureMap(part, t, label, number, chosen = () => [[], () => {}]) {
  const frame = pictureFrame(part);
  const canvas = make("canvas");
  frame.classList.add("grey");
  const [left, top, right, bottom] = part.region;
  const [width, height] = [(right - left) * part.size[0], (bottom - top) * part.size[1]];
  const zoom = OUTLINE / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * zoom));
  canvas.height = Math.max(1, Math.round(height * zoom));
  placeAt(canvas, left, top, right - left, bottom - top);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  frame.append(canvas);
  let map;
  const indexAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * map.rows);
    const column = Math.floor(((event.clientX - box.left) / box.width) * map.columns);
    const inside = row >= 0 && row < map.rows && column >= 0 && column < map.columns;
    return inside ? row * map.columns + column : null;
  };
  explore(canvas, () => [map.rows, map.columns], indexAt, (index) => {
    const { rows, columns, pixels } = map;
    const row = Math.floor(index / columns), column = index % columns;
    const cursor = make("div", "cursor");
    const w = (right - left) / columns, h = (bottom - top) / rows;
    placeAt(cursor, left + column * w, top + row * h, w, h);
    frame.append(cursor);
    const [said, forget] = chosen(index, map);
    unmark = () => { cursor.remove(); forget(); };
    const where = [`row ${row + 1} of ${rows}, column ${column + 1} of ${columns}`];
    if (pixels > 1) where.push(`mean of ${pixels} × ${pixels} pixels`);
    showTip(map, index, [...where, ...said], cursor.getBoundingClientRect());
  });
  const draw = () => {
    frame.firstChild.src = part.picture;
    map = mapOf(part, t);
    paint(canvas, map);
  };
  return [frame, draw];
}

/** The words of a text on the colours of the map of class t. */
function textMap(part, t) {
  // Of the final height before it is drawn, and found by the browser's search.
  const paragraph = make("p", "words", part.pieces.join(""));
  paragraph.dir = "auto";
  let map, words;
  const indexAt = (event) => {
    const index = words.indexOf(event.target);
    return index < 0 ? null : index;
  };
  explore(paragraph, () => [1, words.length], indexAt, (index) => {
    const word = words[index];
    if (!word) return; // a text without words
    word.classList.add("now");
    unmark = () => word.classList.remove("now");
    showTip(map, index, [shortened(word.textContent)], word.getBoundingClientRect());
  });
  const draw = () => {
    map = mapOf(part, t);
    words = [];
    const nodes = part.pieces.flatMap((piece, i) => {
      if (i % 2 === 0) return document.createTextNode(piece);
      const ofPair = [0, part.second].indexOf(words.length); // at the first word of a text
      const called = part.called && ofPair >= 0 ? [make("span", "which", `${part.called[ofPair]}: `)] : [];
      const value = map.values[words.length];
      const word = make("span", Number.isNaN(value) ? "word cut" : "word", piece);
      if (!Number.isNaN(value)) {
        const color = colorAt(map.place(value), map.colors);
        Object.assign(word.style, { backgroundColor: css(color), color: inkOn(color) });
      }
      words.push(word);
      return [...called, word];
    });
    paragraph.replaceChildren(...nodes);
  };
  return [paragraph, draw];
}

/** A picture that was drawn before, under the map of class t. */
function drawnMap(part, t, label) {
  const image = make("img", "drawing");
  image.alt = label;
  return [image, () => { image.src = part.drawings[method().name][t]; }];
}

// By how a part is shown: what makes an element of the map of class t, and what draws it. They get
// the part, t, a label, and the number of the class. The script of a part may add its own.
const MAKERS = { picture: pictureMap, words: textMap, drawings: drawnMap };

/** The input itself, without a map; the words of a text are seen under each. */
const INPUTS = {
  picture(part) {
    const frame = pictureFrame(part);
    for (const [left, top, right, bottom] of part.boxes ?? []) {
      const box = make("div", "box");
      placeAt(box, left, top, right - left, bottom - top);
      frame.append(box);
    }
    return [frame, () => { frame.firstChild.src = part.picture; }];
  },
  drawings(part) {
    const image = make("img", "drawing");
    image.alt = "";
    return [image, () => { image.src = part.input; }];
  },
};

function shortened(text) {
  const characters = [...text];
  return characters.length <= 60 ? text : `${characters.slice(0, 59).join("")}…`;
}
