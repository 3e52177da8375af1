// Puts the parts together: the keyboard, the window, the foot of the page, and the first picture.

// One node takes part in the Tab order; Tab goes from node to node, and out of the graph after the last.
let tabStop = null;
function rove(node) {
  if (tabStop) tabStop.element.setAttribute("tabindex", -1);
  tabStop = node;
  if (node) node.element.setAttribute("tabindex", 0);
}

const readingOrder = (a, b) => a.column - b.column || (a.kind === "residual") - (b.kind === "residual") || yOf(a) - yOf(b);

function nextByKey(node, key) {
  const along = { ArrowLeft: node.into, ArrowRight: node.from }[key];
  if (along) {
    const edge = along.find((one) => one.shown);
    return edge ? other(edge, node) : null;
  }
  const layer = nodes.filter((one) => one.shown && one.column === node.column).sort((a, b) => yOf(a) - yOf(b) || xOf(a) - xOf(b));
  return layer[layer.indexOf(node) + (key === "ArrowDown" ? 1 : -1)] || null;
}

function tabFrom(node, back) {
  const order = nodes.filter((one) => one.shown).sort(readingOrder);
  return order[order.indexOf(node) + (back ? -1 : 1)] || null;
}

function focusOn(node) {
  rove(node);
  node.element.focus({ preventScroll: true });
  bringIntoSight(node, false);
}

picture.addEventListener("keydown", (event) => {
  const node = nodeAt(event);
  if (!node || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter" || event.key === " ") choose(node, { focus: true });
  else if (event.key === "Tab" || event.key.startsWith("Arrow")) {
    const next = event.key === "Tab" ? tabFrom(node, event.shiftKey) : nextByKey(node, event.key);
    if (!next && event.key === "Tab") return;
    if (next) focusOn(next);
  } else return;
  event.preventDefault();
});
picture.addEventListener("focusin", (event) => { pointed = nodeAt(event); lightUp(); });
picture.addEventListener("focusout", () => { pointed = null; lightUp(); });
picture.addEventListener("click", (event) => {
  if (dragged) return;
  const node = nodeAt(event);
  if (node) choose(node);
  else if (!event.target.closest(".edge")) choose(null);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const typing = event.target.matches("input[type=search]");
  if (event.key === "Escape") {
    const back = chosen;
    if (byId("help").open) byId("help").open = false;
    else if (chosen) { choose(null); if (back.shown && panel.contains(event.target)) focusOn(back); }
    else if (query.value !== "") endSearch();
  } else if (typing) return;
  else if (event.key === "/") { query.focus(); query.select(); }
  else if (event.key === "+" || event.key === "=") zoom(1.3);
  else if (event.key === "-") zoom(1 / 1.3);
  else if (event.key === "0") showAll();
  else return;
  event.preventDefault();
});

byId("zoom-in").addEventListener("click", () => zoom(1.4));
byId("zoom-out").addEventListener("click", () => zoom(1 / 1.4));
byId("reset").addEventListener("click", showAll);

// The window or the panel changed: the picture keeps its place unless it still showed the whole graph.
function measureAgain() {
  const whole = showsAll();
  measure();
  chooseDistances();
  placeAll();
  if (whole) showAll();
  else setView(view.x, view.y, view.scale);
}

function fillFoot() {
  byId("missing").replaceChildren(...DATA.missing.map((sentence) => make("p", {}, sentence)));
  const facts = { ...DATA.provenance, thresholds: DATA.thresholds };
  const list = byId("provenance").querySelector("dl");
  for (const [name, value] of Object.entries(facts)) {
    list.append(make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, typeof value === "string" ? value : JSON.stringify(value, null, 1)));
  }
}

byId("title").textContent = DATA.title;
buildEdges();
buildNodes();
buildLegend();
fillFoot();
measure();
chooseDistances();
placeAll();
const followScore = buildScoreSlider();
buildQuantileSlider();
followScore();
showAll();
rove(nodes[DATA.starts[0]] || nodes[0]);
const askedFor = nodes.find((node) => node.name === decodeURIComponent(location.hash.slice(1)));
if (askedFor) choose(askedFor);
window.addEventListener("resize", measureAgain);
