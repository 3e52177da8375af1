// Draws the graph: bands for the layers, lanes for the kinds, an element for each edge and each node.

const clip = draw("clipPath", { id: "inside" }, draw("rect", {}));
const bands = draw("g", { id: "bands" });
const world = draw("g", { id: "world" });
const edgeLayer = draw("g", { id: "edges" });
const nodeLayer = draw("g", { id: "nodes" });
const axis = draw("g", { id: "axis" });
const laneNames = draw("g", { id: "lanes" });
world.append(edgeLayer, nodeLayer);
picture.append(clip, bands, draw("g", { "clip-path": "url(#inside)" }, world), laneNames, axis);

const SHAPES = {
  residual: () => draw("circle", { class: "shape", r: 6.5 }),
  mlp: () => draw("rect", { class: "shape", x: -5.5, y: -5.5, width: 11, height: 11, rx: 2.5 }),
  attention: () => draw("path", { class: "shape", d: "M0 -7.5L7.5 0L0 7.5L-7.5 0Z" }),
};

const edgeWidth = (score) => 0.8 + 6.2 * Math.max(0, score) ** 2;

function edgePath(edge) {
  const [x1, y1, x2, y2] = [xOf(edge.source), yOf(edge.source), xOf(edge.target), yOf(edge.target)];
  if (y1 === y2) return `M${x1} ${y1}L${x2} ${y2}`;
  const middle = x1 + (x2 - x1) * 0.55;
  return `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}

function buildEdges() {
  for (const edge of [...edges].sort((a, b) => a.score - b.score)) {
    edge.element = draw("path", { class: `edge into-${edge.target.klass}`, "data-edge": edge.id });
    edge.element.style.setProperty("--width", edgeWidth(edge.score).toFixed(2));
    edgeLayer.append(edge.element);
  }
}

function spoken(node) {
  const kind = node.kind === "residual" ? node.origin || "no predecessors" : `${NAMES[node.kind]} feature`;
  const token = node.use && node.use.tokens.length ? `, top token ${shortToken(node.use.tokens[0][0], 20)}` : "";
  return `${node.name}, ${kind}${node.start ? ", start" : ""}${token}`;
}

function buildNodes() {
  // Seeds last, so that nothing covers them; the order of the document is that of the Tab key within a layer.
  for (const node of [...nodes].sort((a, b) => a.start - b.start || a.column - b.column || a.lane - b.lane || a.row - b.row)) {
    const mark = draw("g", { class: "mark" });
    if (node.start) mark.append(draw("circle", { class: "ring", r: 10.5 }));
    mark.append(draw("circle", { class: "halo", r: 15 }), SHAPES[node.kind]());
    node.mark = mark;
    node.element = draw("g", {
      class: `node ${node.klass}${node.start ? " start" : ""}`, "data-node": node.id, "data-name": node.name,
      role: "button", tabindex: -1, "aria-label": spoken(node),
    }, mark);
    nodeLayer.append(node.element);
  }
}

function placeAll() {
  for (const edge of edges) edge.element.setAttribute("d", edgePath(edge));
  for (const node of nodes) node.element.setAttribute("transform", `translate(${xOf(node)} ${yOf(node)})`);
  bands.replaceChildren(); axis.replaceChildren(); laneNames.replaceChildren();
  axis.append(draw("rect", { class: "strip", width: view.width, height: AXIS }));
  DATA.layers.forEach((layer, i) => {
    bands.append(draw("rect", { class: i % 2 ? "band odd" : "band" }));
    axis.append(draw("text", { class: "layer", y: 17 }));
    axis.lastChild.textContent = String(layer);
  });
  laneNames.append(draw("rect", { class: "strip", width: GUTTER, height: view.height }));
  DATA.lanes.forEach((lane) => {
    if (lane.rows === 0) return;
    bands.append(draw("rect", { class: `lane ${lane.kind}`, x: 0, width: view.width }));
    laneNames.append(draw("text", { class: "lane-name" }));
    laneNames.lastChild.textContent = NAMES[lane.kind][0].toUpperCase() + NAMES[lane.kind].slice(1);
  });
  axis.append(draw("rect", { class: "strip", width: GUTTER, height: AXIS }), draw("text", { class: "axis-name", x: 3, y: 17 }));
  axis.lastChild.textContent = "layer";
  for (const [name, value] of [["x", GUTTER], ["y", AXIS], ["width", Math.max(0, view.width - GUTTER)], ["height", Math.max(0, view.height - AXIS)]]) {
    clip.firstChild.setAttribute(name, value);
  }
}

// Move the world, and keep what is beside it at the rim.
followView.push(() => {
  world.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
  const rows = size.row * view.scale, columns = size.column * view.scale;
  const marks = clamp(Math.min(rows / 30, columns / 44), 0.35, 1.2);
  world.style.setProperty("--mark", marks / view.scale);
  world.style.setProperty("--letters", Math.max(1, 0.92 / marks));
  world.style.setProperty("--edge", clamp(marks, 0.35, 1.3));
  const names = axis.querySelectorAll(".layer");
  const every = Math.ceil(22 / columns);  // layers too close for every number
  DATA.layers.forEach((_, i) => {
    const x = i * columns + view.x;
    bands.children[i].setAttribute("x", x);
    bands.children[i].setAttribute("width", columns);
    bands.children[i].setAttribute("height", view.height);
    names[i].setAttribute("x", x + columns * 0.5);
    names[i].classList.toggle("gone", i % every !== 0 || x + columns * 0.5 < GUTTER + 8);
  });
  DATA.lanes.filter((lane) => lane.rows > 0).forEach((lane, i) => {
    const top = size.tops[DATA.lanes.indexOf(lane)] * view.scale + view.y, height = (lane.rows + 0.6) * rows;
    const band = bands.children[DATA.layers.length + i];
    band.setAttribute("y", top);
    band.setAttribute("height", height);
    const seenTop = Math.max(top, AXIS), seenBottom = Math.min(top + height, view.height);
    const name = laneNames.children[1 + i];
    name.setAttribute("transform", `translate(${GUTTER / 2 + 4} ${(seenTop + seenBottom) / 2}) rotate(-90)`);
    name.classList.toggle("gone", seenBottom - seenTop < 60);
  });
});

function showFiltered() {
  for (const edge of edges) edge.element.classList.toggle("gone", !edge.shown);
  for (const node of nodes) node.element.classList.toggle("gone", !node.shown);
  const [e, n] = [edges.filter((edge) => edge.shown).length, nodes.filter((node) => node.shown).length];
  const of = (part, whole, word) => (part === whole ? count(whole, word) : `${part.toLocaleString("en")} of ${count(whole, word)}`);
  byId("counts").textContent = `${of(n, nodes.length, "feature")}, ${of(e, edges.length, "edge")}`;
  byId("nothing").hidden = e > 0;
  byId("nothing").textContent = edges.length === 0
    ? "This graph has no edges: no match passed the thresholds it was traced with." : "No edge passes these thresholds.";
}
