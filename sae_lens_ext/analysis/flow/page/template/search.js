// Finds features by name ("10/res/123", "10/res"), index or top token.

const query = byId("query"), foundBox = byId("found"), hitList = byId("hits");
const SHOWN_HITS = 30;
let hits = [], active = 0;

// How well a node fits, 0 not at all.
function fit(node, text) {
  if (node.name === text || node.hook.name === text) return 5;
  if (String(node.index) === text) return 4;
  if (node.name.startsWith(text) || node.hook.name.toLowerCase() === text) return 3;
  if (!node.use) return 0;
  const tokens = node.use.tokens.map(([token]) => token.toLowerCase());
  if (tokens.some((token) => token.trim() === text)) return 2;
  return tokens.some((token) => token.includes(text)) ? 1 : 0;
}

function search() {
  const text = query.value.trim().toLowerCase();
  for (const node of hits) { node.found = false; node.element.classList.remove("found"); }
  hits = text === "" ? [] : nodes.map((node) => [fit(node, text), node]).filter(([score]) => score > 0)
    .sort((a, b) => b[0] - a[0] || b[1].shown - a[1].shown || a[1].column - b[1].column).map(([, node]) => node);
  for (const node of hits) { node.found = true; node.element.classList.add("found"); }
  picture.classList.toggle("searched", hits.length > 0);
  active = 0;
  listHits(text);
  labelSoon();
}

function listHits(text) {
  foundBox.hidden = text === "";
  query.setAttribute("aria-expanded", String(text !== ""));
  const more = hits.length > SHOWN_HITS ? `; the first ${SHOWN_HITS} are listed` : "";
  byId("how-many").textContent = hits.length ? `${count(hits.length, "feature")}${more}` : "No feature of this graph fits.";
  hitList.replaceChildren(...hits.slice(0, SHOWN_HITS).map((node, i) => {
    const token = node.use && node.use.tokens.length ? matchingToken(node, text) : null;
    const item = make("li", { role: "option", id: `hit-${i}`, class: `${node.klass}${node.shown ? "" : " faint"}`, "aria-selected": String(i === active) },
      make("i", { class: `dot ${node.kind}` }), node.name, " ", token && make("code", {}, visibleToken(token)));
    item.addEventListener("pointerdown", (event) => { event.preventDefault(); goTo(i); });
    return item;
  }));
  markActive();
}

function matchingToken(node, text) {
  const fitting = node.use.tokens.find(([token]) => token.toLowerCase().includes(text));
  return (fitting || node.use.tokens[0])[0];
}

function markActive() {
  [...hitList.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === active)));
  if (hits.length) query.setAttribute("aria-activedescendant", `hit-${active}`);
  else query.removeAttribute("aria-activedescendant");
  if (hitList.children[active]) hitList.children[active].scrollIntoView({ block: "nearest" });
}

function goTo(i) {
  active = i;
  markActive();
  foundBox.hidden = true;
  query.setAttribute("aria-expanded", "false");
  choose(hits[i], { centre: true });
}

function endSearch() {
  query.value = "";
  search();
}

query.addEventListener("input", search);
query.addEventListener("focus", () => { foundBox.hidden = query.value.trim() === ""; });
query.addEventListener("blur", () => { foundBox.hidden = true; });
query.addEventListener("keydown", (event) => {
  const last = Math.min(hits.length, SHOWN_HITS) - 1;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    active = clamp(active + (event.key === "ArrowDown" ? 1 : -1), 0, Math.max(0, last));
    markActive();
  } else if (event.key === "Enter" && hits.length) goTo(active);
  else if (event.key === "Escape" && query.value !== "") endSearch();
  else return;
  event.preventDefault();
  event.stopPropagation();
});
