// A query under its map, above the support of the class: lines lead from a patch to what it found.

const LINE = "http://www.w3.org/2000/svg";
const WIDTH = 62; // of a picture of the support, pixels

MAKERS.compared = function comparedMap(part, t, label, index) {
  const around = make("div", "compared");
  around.style.position = "relative";
  const { pictures, maps, links } = part.support[index];
  const [rows, columns] = maps.shape;
  const row = make("div");
  Object.assign(row.style, { display: "flex", flexWrap: "wrap", gap: "4px" });
  const frames = pictures.map((_, j) => supportFrame(part, j));
  row.append(...frames);
  const svg = document.createElementNS(LINE, "svg");
  Object.assign(svg.style, {
    position: "absolute", left: 0, top: 0, width: "100%", height: "100%", pointerEvents: "none",
    overflow: "visible",
  });
  const [frame, drawMap] = pictureMap(part, t, label, index, (cell, map) => {
    const from = centre(frame.querySelector("canvas"), cell, map.rows, map.columns);
    // A map of pixels has other cells than the patches that attend.
    const y = Math.floor(((Math.floor(cell / map.columns) + 0.5) / map.rows) * rows);
    const x = Math.floor((((cell % map.columns) + 0.5) / map.columns) * columns);
    const found = links === null ? [] : links[y * columns + x];
    const most = Math.max(...found.map(([, , weight]) => weight));
    svg.replaceChildren(...found.map(([j, patch, weight]) =>
      lineBetween(from, centre(frames[j], patch, rows, columns), 1 + (2 * weight) / most)));
    const said = found.map(([j, , weight]) => `picture ${j + 1} ${percent(weight)}`);
    return [said.length ? [`attends to ${said.join(", ")}`] : [], () => svg.replaceChildren()];
  });
  const draw = () => {
    drawMap();
    const all = pictures.map((_, j) => j);
    mapsOf(maps, all, false, data.colors[part.shown].sequential).forEach((map, j) => {
      const [image, canvas] = frames[j].children;
      image.src = data.common[pictures[j]];
      paint(canvas, map);
    });
  };
  /** The middle of a cell of a picture, from the corner of all. */
  function centre(picture, cell, ofRows, ofColumns) {
    const [box, all] = [picture.getBoundingClientRect(), around.getBoundingClientRect()];
    const y = (Math.floor(cell / ofColumns) + 0.5) / ofRows, x = ((cell % ofColumns) + 0.5) / ofColumns;
    return [box.left - all.left + x * box.width, box.top - all.top + y * box.height];
  }
  around.append(frame, make("figcaption", "", "compared with"), row, svg);
  return [around, draw];
};

INPUTS.compared = INPUTS.picture;

/** Picture j of a support, which is under its map once that is painted. */
function supportFrame(part, j) {
  const frame = pictureFrame({ size: part.supportSize, tiny: part.supportTiny });
  frame.classList.add("grey");
  frame.style.width = `${WIDTH}px`;
  frame.firstChild.alt = `compared with picture ${j + 1}`;
  const canvas = make("canvas");
  canvas.width = 2 * WIDTH;
  canvas.height = Math.round((2 * WIDTH * part.supportSize[1]) / part.supportSize[0]);
  canvas.style.cursor = "default";
  placeAt(canvas, 0, 0, 1, 1);
  frame.append(canvas);
  return frame;
}

function lineBetween([x1, y1], [x2, y2], width) {
  const line = document.createElementNS(LINE, "line");
  const look = { stroke: "#00e5ff", "stroke-width": width, "stroke-opacity": 0.9 };
  for (const [name, value] of Object.entries({ x1, y1, x2, y2, ...look })) line.setAttribute(name, value);
  return line;
}
