// Which part of the graph is seen: moving and zooming. The picture's marks and letters keep their size on the screen.

const picture = byId("picture");
const GUTTER = 30, AXIS = 26;  // left of and above the graph, in pixels
const SIDE = 24, TOP = 8, FOOT = 40;  // around it; below it are the buttons

const view = { x: 0, y: 0, scale: 1, width: 0, height: 0 };  // screen = world * scale + (x, y)
const size = { column: 0, row: 0, width: 0, height: 0, tops: [] };  // of the world
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const followView = [];  // what is called when the view has changed

function measure() {
  const box = byId("stage").getBoundingClientRect();
  view.width = box.width;
  view.height = box.height;
}

// The pixels that the graph may take.
const free = () => [view.width - GUTTER - 2 * SIDE, view.height - AXIS - TOP - FOOT];

// Choose the distances of columns and rows so that the whole graph fills the window, if it is not too large for that.
function chooseDistances() {
  const lanes = DATA.lanes.filter((lane) => lane.rows > 0);
  const rows = lanes.reduce((sum, lane) => sum + lane.rows + 0.6, 0);
  const [width, height] = free();
  size.row = clamp(height / rows, 30, 136);
  const scale = Math.min(1, height / (rows * size.row));
  size.column = clamp(width / DATA.layers.length / scale, 60, 230);
  let top = 0;
  size.tops = DATA.lanes.map((lane) => {
    const own = top;
    top += lane.rows > 0 ? (lane.rows + 0.6) * size.row : 0;
    return own;
  });
  size.width = DATA.layers.length * size.column;
  size.height = top;
}

const xOf = (node) => (node.column + (node.kind === "residual" ? 0.75 : 0.25)) * size.column;
const yOf = (node) => size.tops[node.lane] + (node.row + 0.8 - 0.15 * Math.min(1, DATA.lanes[node.lane].rows - 1)) * size.row;

function setView(x, y, scale) {
  const least = Math.min(fittingScale() * 0.6, 0.6);
  view.scale = clamp(scale, least, 12);
  view.x = x;
  view.y = y;
  for (const follow of followView) follow();
}

const fittingScale = () => Math.min(1, free()[0] / size.width, free()[1] / size.height);
const showsAll = () => Math.abs(view.scale - fittingScale()) < 1e-6;

function showAll() {
  const scale = fittingScale();
  setView(
    GUTTER + (view.width - GUTTER - size.width * scale) / 2,
    AXIS + TOP + (free()[1] - size.height * scale) / 2,
    scale);
}

function zoom(factor, x = view.width / 2, y = view.height / 2) {
  const before = view.scale;
  const least = Math.min(fittingScale() * 0.6, 0.6);
  const scale = clamp(before * factor, least, 12);
  setView(x - (x - view.x) * scale / before, y - (y - view.y) * scale / before, scale);
}

// Move so that a node is in the middle; or, unless `always`, only if it is near the rim or out of sight.
function bringIntoSight(node, always) {
  const x = xOf(node) * view.scale + view.x, y = yOf(node) * view.scale + view.y;
  const inside = x > GUTTER + 40 && x < view.width - 40 && y > AXIS + 30 && y < view.height - FOOT;
  if (inside && !always) return;
  glide((view.width + GUTTER) / 2 - xOf(node) * view.scale, (view.height + AXIS) / 2 - yOf(node) * view.scale);
}

let gliding = 0;
function glide(x, y) {
  cancelAnimationFrame(gliding);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    setView(x, y, view.scale);
    return;
  }
  const from = { x: view.x, y: view.y }, start = performance.now();
  const step = (now) => {
    const part = clamp((now - start) / 220, 0, 1), eased = 1 - (1 - part) ** 3;
    setView(from.x + (x - from.x) * eased, from.y + (y - from.y) * eased, view.scale);
    if (part < 1) gliding = requestAnimationFrame(step);
  };
  gliding = requestAnimationFrame(step);
}

let dragged = false;  // a press that moved is no click

picture.addEventListener("wheel", (event) => {
  event.preventDefault();
  cancelAnimationFrame(gliding);
  const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? view.height : 1;
  if (event.shiftKey) { setView(view.x - (event.deltaX || event.deltaY) * unit, view.y, view.scale); return; }
  const box = picture.getBoundingClientRect();
  zoom(Math.exp(-clamp(event.deltaY * unit, -200, 200) * 0.002), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

picture.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  cancelAnimationFrame(gliding);
  const from = { x: event.clientX, y: event.clientY, viewX: view.x, viewY: view.y };
  dragged = false;
  const move = (moved) => {
    const dx = moved.clientX - from.x, dy = moved.clientY - from.y;
    if (!dragged && Math.hypot(dx, dy) < 4) return;
    dragged = true;
    picture.classList.add("dragged");
    setView(from.viewX + dx, from.viewY + dy, view.scale);
  };
  const end = () => {
    picture.classList.remove("dragged");
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", end);
    window.removeEventListener("pointercancel", end);
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", end);
  window.addEventListener("pointercancel", end);
});
