// How the cards are sorted and filtered, and which are on the page.

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

// ------------------------------------------------------------------------------------ the page

const LEAF = data.parts ? 200 : Infinity; // cards that are there at once
const made = new Map(); // input -> its card; of many inputs those of the leaf alone
const cardAt = new Map(); // the same by element
let order = data.inputs, leaf = 0, cards = [];

const isOverview = () => byId("view").value === "thumbnails";

/** Draw what is in view or near it; the rest when it comes near. */
async function draw(card) {
  if (card.drawn === method() || (isOverview() && !card.filled)) return;
  if (!card.filled) {
    try {
      fillCard(card, await detailOf(card.input));
    } catch (error) {
      card.card.querySelector(".glimpse").textContent = error.message;
      return;
    }
  }
  if (card.drawn === method()) return; // as by another call that has waited
  card.drawn = method();
  card.drawers.forEach((drawer) => drawer());
}

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = cardAt.get(target);
    if (!card) continue; // of a leaf that was turned
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

/** Choose and sort the inputs, and show the first of them. */
function arrange() {
  const [wanted, verdict] = [byId("predicted").value, byId("correct").value];
  order = data.inputs.filter((input) =>
    (wanted === "" || wanted === String(input.predicted)) &&
    (verdict === "" || verdict === String(input.correct)));
  order.sort(SORTS[byId("sort").value]);
  byId("count").textContent = `${order.length} of ${data.inputs.length} inputs shown`;
  byId("empty").hidden = order.length > 0;
  const starts = order.map((_, i) => i).filter((i) => i % LEAF === 0);
  byId("leaf").replaceChildren(...starts.map((start, i) =>
    new Option(`${start + 1} to ${Math.min(start + LEAF, order.length)} of ${order.length}`, i)));
  byId("leaves").hidden = starts.length < 2;
  turn(0);
}

/** Show the cards of a leaf, and forget those of another where there are many. */
function turn(to) {
  hideTip();
  leaf = to;
  const inputs = order.slice(to * LEAF, (to + 1) * LEAF);
  const here = new Set(inputs);
  for (const [input, { card }] of data.parts ? made : []) {
    if (here.has(input)) continue;
    observer.unobserve(card);
    made.delete(input);
    cardAt.delete(card);
  }
  cards = inputs.map((input) => made.get(input) ?? place(input));
  byId("cards").replaceChildren(...cards.map(({ card }) => card));
  byId("leaf").value = leaf;
  byId("previous").disabled = leaf === 0;
  byId("next").disabled = (leaf + 1) * LEAF >= order.length;
}

/** Make the card of an input, which is drawn when it comes into view. */
function place(input) {
  const card = makeCard(input);
  made.set(input, card);
  cardAt.set(card.card, card);
  observer.observe(card.card);
  return card;
}

/** Turn to another leaf, and see it from its beginning. */
function leafThrough(to) {
  turn(to);
  scrollTo(0, 0);
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

data.inputs.forEach((input, number) => { input.number = number; });
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
fill("view", [["cards", "cards"], ["thumbnails", "thumbnails"]], () => {
  hideTip();
  byId("cards").classList.toggle("overview", isOverview());
  cards.filter((card) => card.near).forEach(draw);
});
byId("view").closest("label").hidden = !data.parts;
byId("leaf").addEventListener("change", (event) => leafThrough(Number(event.target.value)));
byId("previous").addEventListener("click", () => leafThrough(leaf - 1));
byId("next").addEventListener("click", () => leafThrough(leaf + 1));
byId("cards").addEventListener("click", (event) => {
  const glimpse = event.target.closest(".glimpse");
  if (!glimpse || !isOverview()) return;
  byId("view").value = "cards";
  byId("view").dispatchEvent(new Event("change"));
  glimpse.closest(".card").scrollIntoView({ block: "center" });
});
byId("reset").addEventListener("click", () => {
  byId("predicted").value = byId("correct").value = "";
  arrange();
});
const width = "words" in data.colors ? "30rem" : `${9.2 * (data.widest + 1)}rem`;
byId("cards").style.setProperty("--width", width);
arrange();
if (data.methods.length) choose();
// Before a card's own listeners, which need its maps.
byId("cards").addEventListener("focus", (e) => draw(cardAt.get(e.target.closest(".card"))), true);
addEventListener("beforeprint", () => cards.forEach(draw));
addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
