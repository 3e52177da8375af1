// Lights up the path through a node: all that it comes from and all that it leads to, over the edges that are shown.

let chosen = null;   // the node whose panel is open
let pointed = null;  // the node under the pointer or with the keyboard's focus
let lit = [];

function pathThrough(node) {
  const members = new Set([node]), edgesOf = new Set();
  for (const side of ["into", "from"]) {
    const reached = new Set([node]);
    for (const step of reached) {
      for (const edge of step[side]) {
        if (!edge.shown) continue;
        edgesOf.add(edge);
        reached.add(other(edge, step));
      }
    }
    for (const step of reached) members.add(step);
  }
  return { nodes: members, edges: edgesOf };
}

function lightUp() {
  for (const item of lit) {
    item.element.classList.remove("lit", "centre");
    item.lit = false;
  }
  labelSoon();
  const centre = pointed || chosen;
  picture.classList.toggle("focussed", Boolean(centre && centre.shown));
  lit = [];
  if (!centre || !centre.shown) return;
  const path = pathThrough(centre);
  lit = [...path.nodes, ...path.edges];
  for (const item of lit) {
    item.element.classList.add("lit");
    item.lit = true;
  }
  centre.element.classList.add("centre");
}

const tip = byId("tip");

function showTip(lines, x, y) {
  tip.replaceChildren(...lines.map((line, i) => make(i ? "div" : "b", {}, line)));
  tip.hidden = false;
  const left = clamp(x + 14, 4, view.width - tip.offsetWidth - 6);
  const top = y + 18 + tip.offsetHeight > view.height ? y - tip.offsetHeight - 14 : y + 18;
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
}

function tipOfNode(node) {
  const scores = KINDS.map((kind, i) => [kind, node.scores[i]]).filter(([, score]) => score !== null);
  const tokens = make("span", {});
  (node.use ? node.use.tokens.slice(0, 4) : []).forEach(([token]) => tokens.append(make("code", {}, visibleToken(token))));
  const origin = node.kind === "residual" ? node.origin : "";
  return [
    `${node.name}${node.start ? ", start" : ""}${origin ? `, ${origin}` : ""}`,
    scores.map(([kind, score]) => `${NAMES[kind]} ${number(score)}`).join("  ·  "),
    tokens,
  ].filter((line) => line instanceof Node ? line.childNodes.length : line);
}

const nodeAt = (event) => {
  const element = event.target.closest && event.target.closest(".node");
  return element ? nodes[element.dataset.node] : null;
};

picture.addEventListener("pointerover", (event) => {
  if (picture.classList.contains("dragged")) return;
  const box = picture.getBoundingClientRect(), [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const node = nodeAt(event), line = event.target.closest(".edge");
  if (node !== pointed) { pointed = node; lightUp(); }
  if (node) showTip(tipOfNode(node), x, y);
  else if (line) {
    const edge = edges[line.dataset.edge];
    const nullPart = edge.quantile === null ? "" : `, null quantile ${quantileText(edge.quantile)}`;
    showTip([`${edge.source.name} → ${edge.target.name}`, `cosine ${number(edge.score, 3)}${nullPart}`], x, y);
  } else tip.hidden = true;
});
picture.addEventListener("pointerleave", () => { pointed = null; tip.hidden = true; lightUp(); });
