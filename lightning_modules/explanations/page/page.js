// The cards, and how they are sorted and filtered.

// Of a regression there are numbers, and no likeliest class.
const VALUE = data.activation ? "probability" : "value";
const shownValue = (value) =>
  data.activation ? ` ${percent(value)}` : ` = ${Number(value.toPrecision(4))}`;
const VERDICTS = { true: "✓ right", false: "✗ wrong", null: "unknown" };

const collator = new Intl.Collator(undefined, { numeric: true });
const className = (input) => data.classNames[input.predicted];
const SORTS = {
  "order of input": () => 0,
  name: (a, b) => collator.compare(a.name, b.name),
  ...(data.first && {
    [`${data.first} class`]: (a, b) => collator.compare(className(a), className(b)),
  }),
  [`${VALUE}, highest first`]: (a, b) => b.value - a.value,
  [`${VALUE}, lowest first`]: (a, b) => a.value - b.value,
  ...(data.activation === "softmax" && {
    "correctness, wrong first": (a, b) => rank(a) - rank(b),
  }),
};
const rank = (input) => [false, true, null].indexOf(input.correct);

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
  const drawers = [];
  const parts = input.parts.map((part) => makePart(input, part, drawers));
  card.append(heading, facts, ...parts);
  return { input, card, drawers, drawn: null, near: false };
}

/** One source of an input: what was given, and its map for each class. */
function makePart(input, part, drawers) {
  const maps = make("div", part.shown === "picture" ? "maps" : `maps ${part.shown}`);
  if (input.parts.length > 1) maps.append(make("h3", "", part.source));
  if (part.shown === "picture") {
    const frame = pictureFrame(part);
    drawers.push(() => { frame.firstChild.src = part.picture; });
    maps.append(figure(frame, "input"));
  } else if (part.shown === "drawings") {
    const image = make("img", "drawing");
    image.alt = "";
    image.src = part.input;
    maps.append(figure(image, "input"));
  }
  input.classes.forEach(({ index, value }, t) => {
    const label = `relevance for ${data.classNames[index]}`;
    const [element, draw] = MAKERS[part.shown](part, t, label);
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

// ------------------------------------------------------------------------------------ the page

const cards = data.inputs.map(makeCard);
const cardOf = new Map(cards.map((card) => [card.card, card]));

/** Draw what is in view or near it; the rest when it comes near. */
function draw(card) {
  if (card.drawn === method()) return;
  card.drawn = method();
  card.drawers.forEach((drawer) => drawer());
}

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = cardOf.get(target);
    card.near = isIntersecting;
    if (isIntersecting) draw(card);
  }
}, { rootMargin: "600px" });

function choose() {
  const { name, signed, about } = method();
  const stops = (shown) => String(table(shown).filter((_, i) => i % 15 === 0).map(css));
  const scales = new Set(Object.keys(data.colors).map(stops));  // of words and pictures, one each
  byId("colors").replaceChildren(...[...scales].map((colors) => {
    const scale = make("div", "scale");
    scale.style.backgroundImage = `linear-gradient(to right, ${colors})`;
    return scale;
  }));
  const it = data.activation ? "the class" : "a higher value";
  const ends = signed ? [`against ${it}`, "0", `for ${it}`] : ["least of its map", "highest"];
  byId("ends").replaceChildren(...ends.map((end) => make("span", "", end)));
  byId("about").textContent = about && `${name}: ${about}`;
  hideTip();
  cards.filter((card) => card.near).forEach(draw);
}

function arrange() {
  hideTip();
  const [wanted, verdict] = [byId("predicted").value, byId("correct").value];
  let shown = 0;
  for (const { input, card } of cards) {
    const matches =
      (wanted === "" || wanted === String(input.predicted)) &&
      (verdict === "" || verdict === String(input.correct));
    card.hidden = !matches;
    shown += matches;
  }
  const sorted = [...cards].sort((a, b) => SORTS[byId("sort").value](a.input, b.input));
  byId("cards").append(...sorted.map(({ card }) => card));
  byId("count").textContent = `${shown} of ${cards.length} inputs shown`;
  byId("empty").hidden = shown > 0;
}

/** Fill a list with [value, text], and call back when another is chosen. */
function fill(id, options, changed) {
  for (const [value, text] of options) byId(id).add(new Option(text, value));
  byId(id).addEventListener("change", changed);
}

const count = (matches) => `(${data.inputs.filter(matches).length})`;
const indices = data.first ? [...new Set(data.inputs.map((input) => input.predicted))] : [];
const predicted = indices.map((index) => [
  index,
  `${shortened(data.classNames[index])} ${count((input) => input.predicted === index)}`,
]);

byId("heading").textContent = document.title = data.heading;
fill("method", data.methods.map(({ name }, i) => [i, name]), choose);
fill("sort", Object.keys(SORTS).map((name) => [name, name]), arrange);
fill("predicted", [["", "any"], ...predicted.sort((a, b) => collator.compare(a[1], b[1]))], arrange);
fill("correct", [
  ["", "any"],
  ...Object.entries(VERDICTS).map(([correct, text]) => [
    correct, `${text} ${count((input) => String(input.correct) === correct)}`,
  ]),
], arrange);
byId("predicted").closest("label").hidden = !data.first;
byId("predicted-label").textContent = `${data.first} class`;
byId("correct").closest("label").hidden = data.activation !== "softmax";
byId("reset").addEventListener("click", () => {
  byId("predicted").value = byId("correct").value = "";
  arrange();
});
const widest = Math.max(1, ...data.inputs.map((input) => input.classes.length));
const ofText = data.inputs.some((input) => input.parts.some((part) => part.shown === "words"));
byId("cards").style.setProperty("--width", ofText ? "30rem" : `${9.2 * (widest + 1)}rem`);
arrange();
if (data.methods.length) choose();
cards.forEach(({ card }) => observer.observe(card));
// Before a card's own listeners, which need its maps.
byId("cards").addEventListener("focus", (e) => draw(cardOf.get(e.target.closest(".card"))), true);
addEventListener("beforeprint", () => cards.forEach(draw));
addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
