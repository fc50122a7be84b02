// The cards: what an input is taken for, and its parts, which of many inputs come when wanted.

// Of a regression there are numbers, and no likeliest class.
const VALUE = data.activation ? "probability" : "value";
const shownValue = (value) =>
  data.activation ? ` ${percent(value)}` : ` = ${Number(value.toPrecision(4))}`;
const VERDICTS = { true: "✓ right", false: "✗ wrong", null: "unknown" };

function makeCard(input) {
  const card = make("article", input.correct === false ? "card wrong" : "card");
  const heading = make("h2", "", input.name);
  heading.dir = "auto";
  const facts = make("p", "facts");
  const fact = (key, index, after = "") => {
    const span = make("span");
    span.append(make("span", "key", `${key} `), classLabel(index), after);
    facts.append(span);
  };
  if (data.first) fact(data.first, input.predicted, shownValue(input.value));
  if (input.label !== null) {
    fact("true class", input.label);
    facts.append(make("span", "verdict", VERDICTS[input.correct]));
  }
  card.append(heading, facts);
  const made = { input, card, drawers: [], drawn: null, near: false, filled: false };
  if (data.parts) card.append(glimpse(input));
  else fillCard(made, input);
  return made;
}

/** Add the parts of an input to its card. */
function fillCard(made, detail) {
  if (made.filled) return;
  made.filled = true;
  made.card.classList.add("filled"); // and its glimpse is seen among thumbnails alone
  made.card.append(...detail.parts.map((part) => makePart(detail, part, made.drawers)));
}

/** A thumbnail, or the beginning of a text; whoever chooses it sees the card. */
function glimpse(input) {
  const button = make("button", "glimpse", input.text ?? "");
  button.type = "button";
  button.setAttribute("aria-label", `explain ${input.name}`);
  if (input.text === null) {
    const { folder, size, columns, thumbnail } = data.parts;
    const place = input.number % size;
    const [left, top] = [place % columns, Math.floor(place / columns)];
    button.classList.add("thumbnail");
    Object.assign(button.style, {
      width: `${thumbnail}px`, height: `${thumbnail}px`,
      backgroundImage: `url("${folder}/${partOf(input)}.jpg")`,
      backgroundPosition: `${-left * thumbnail}px ${-top * thumbnail}px`,
    });
  }
  return button;
}

// --------------------------------------------------------------------------- parts of many inputs

const KEPT = 40; // parts that stay in memory
const parts = new Map(); // number -> promise of the details of its inputs, the latest last
const arrived = new Map();

const partOf = (input) => Math.floor(input.number / data.parts.size);

/** What the script of a part calls. */
function addPart(number, details) {
  arrived.set(number, details);
}

/** A promise of what a card shows; its part is loaded if it is not there. */
async function detailOf(input) {
  const number = partOf(input);
  const part = parts.get(number) ?? loadPart(number);
  parts.delete(number);
  parts.set(number, part);
  if (parts.size > KEPT) parts.delete(parts.keys().next().value);
  return (await part)[input.number % data.parts.size];
}

function loadPart(number) {
  return new Promise((resolve, reject) => {
    const script = make("script");
    script.src = `${data.parts.folder}/${number}.js`;
    script.onload = () => {
      resolve(arrived.get(number));
      arrived.delete(number);
      script.remove();
    };
    script.onerror = () => {
      parts.delete(number); // it may be there the next time
      script.remove();
      reject(new Error(`${script.getAttribute("src")} is not there; it belongs beside this page`));
    };
    document.head.append(script);
  });
}


/** One source of an input: what was given, and its map for each class. */
function makePart(detail, part, drawers) {
  const maps = make("div", part.shown === "picture" ? "maps" : `maps ${part.shown}`);
  if (detail.parts.length > 1) maps.append(make("h3", "", part.source));
  if (INPUTS[part.shown]) {
    const [element, draw] = INPUTS[part.shown](part);
    drawers.push(draw);
    maps.append(figure(element, part.marked ? `input: ${part.marked}` : "input"));
  }
  detail.classes.forEach(({ index, value }, t) => {
    const label = `relevance for ${data.classNames[index]}`;
    const [element, draw] = MAKERS[part.shown](part, t, label, index);
    drawers.push(draw);
    maps.append(figure(element, classLabel(index), shownValue(value)));
  });
  return maps;
}

function classLabel(index) {
  const label = make("span", "class", data.classNames[index]);
  label.dir = "auto";
  return label;
}

function figure(element, ...caption) {
  const around = make("figure");
  const text = make("figcaption");
  text.append(...caption);
  // Captions of several lines must not push pictures out of their row.
  around.append(...(element.matches(".frame, .drawing") ? [element, text] : [text, element]));
  return around;
}
