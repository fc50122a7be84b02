// A query under its map, above the support of the class: lines lead from a patch to what it found.

const LINE = "http://www.w3.org/2000/svg";

MAKERS.compared = function comparedMap(part, t, label, index) {
  const around = make("div", "compared");
  around.style.position = "relative";
  const { pictures, shape, links } = part.support[index];
  const [rows, columns] = shape;
  const row = make("div");
  Object.assign(row.style, { display: "flex", flexWrap: "wrap", gap: "4px", marginTop: "10px" });
  const images = pictures.map((picture, j) => {
    const image = make("img");
    Object.assign(image.style, { width: "62px", imageRendering: part.tiny ? "pixelated" : "auto" });
    image.src = picture;
    image.alt = `compared with picture ${j + 1}`;
    row.append(image);
    return image;
  });
  const svg = document.createElementNS(LINE, "svg");
  Object.assign(svg.style, {
    position: "absolute", left: 0, top: 0, width: "100%", height: "100%", pointerEvents: "none",
    overflow: "visible",
  });
  const [frame, draw] = pictureMap(part, t, label, index, (cell, map) => {
    const from = centre(frame.querySelector("canvas"), cell, map.rows, map.columns);
    // A map of pixels has other cells than the patches that attend.
    const y = Math.floor(((Math.floor(cell / map.columns) + 0.5) / map.rows) * rows);
    const x = Math.floor((((cell % map.columns) + 0.5) / map.columns) * columns);
    const found = links === null ? [] : links[y * columns + x];
    const most = Math.max(...found.map(([, , weight]) => weight));
    const lines = found.map(([j, patch, weight]) => {
      const line = document.createElementNS(LINE, "line");
      const to = centre(images[j], patch, rows, columns);
      const ends = { x1: from[0], y1: from[1], x2: to[0], y2: to[1], stroke: "#00e5ff" };
      const look = { "stroke-width": 1 + (2 * weight) / most, "stroke-opacity": 0.9 };
      for (const [name, value] of Object.entries({ ...ends, ...look })) line.setAttribute(name, value);
      const title = document.createElementNS(LINE, "title");
      title.textContent = `attention ${percent(weight)}`;
      line.append(title);
      return line;
    });
    svg.replaceChildren(...lines);
    return () => svg.replaceChildren();
  });
  /** The middle of a cell of a picture, from the corner of all. */
  function centre(picture, cell, ofRows, ofColumns) {
    const [box, all] = [picture.getBoundingClientRect(), around.getBoundingClientRect()];
    const y = (Math.floor(cell / ofColumns) + 0.5) / ofRows, x = ((cell % ofColumns) + 0.5) / ofColumns;
    return [box.left - all.left + x * box.width, box.top - all.top + y * box.height];
  }
  around.append(frame, row, svg);
  return [around, draw];
};

INPUTS.compared = INPUTS.picture;
