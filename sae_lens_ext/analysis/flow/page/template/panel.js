// What is known of the chosen node.

const panel = byId("panel");

function choose(node, { focus = false, centre = false } = {}) {
  const before = chosen;
  chosen = node;
  for (const one of [before, node]) if (one) one.element.classList.toggle("chosen", one === node);
  const wasHidden = panel.hidden;
  panel.hidden = !node;
  if (wasHidden !== panel.hidden) measureAgain();
  if (node) {
    fillPanel(node);
    panel.scrollTop = 0;
    rove(node);
    bringIntoSight(node, centre);
    if (focus) node.element.focus({ preventScroll: true });
  }
  history.replaceState(null, "", node ? `#${node.name}` : location.pathname + location.search);
  lightUp();
}

const part = (title, ...children) => make("section", {}, make("h3", {}, title), ...children);

function fillPanel(node) {
  panel.replaceChildren(headOf(node), ...[
    scoresOf(node), edgesOf(node, "into", "Comes from"), edgesOf(node, "from", "Leads to"), tokensOf(node), contextsOf(node),
  ].filter(Boolean));
}

function headOf(node) {
  const close = make("button", { type: "button", class: "close", title: "Close (Esc)", "aria-label": "Close" }, "×");
  close.addEventListener("click", () => choose(null));
  const what = node.kind === "residual" ? node.origin || "no predecessors" : `${NAMES[node.kind]} feature`;
  const badges = make("p", { class: "badges" }, make("span", { class: `badge ${node.klass}` }, make("i", { class: "dot" }), what));
  if (node.start) badges.append(make("span", { class: "badge plain" }, "start"));
  if (!node.shown) badges.append(make("span", { class: "badge plain warn" }, "hidden by the thresholds or the legend"));
  const facts = make("dl", {},
    make("dt", {}, "hook"), make("dd", {}, make("code", {}, node.hook.name)),
    make("dt", {}, "index"), make("dd", {}, make("code", {}, String(node.index))));
  const link = node.url
    ? make("a", { class: "out", href: node.url, target: "_blank", rel: "noopener noreferrer" }, "Open in Neuronpedia ↗") : null;
  return make("div", { class: "head" }, close, make("h2", {}, node.name), badges, facts, link);
}

// s(R), s(M), s(A): the best cosine with a feature of each predecessor, and the thresholds of the tracing as ticks.
function scoresOf(node) {
  if (node.kind !== "residual" || node.scores.every((score) => score === null)) return null;
  const rows = KINDS.map((kind, i) => {
    const threshold = DATA.thresholds[kind];
    const row = make("div", { class: "meter" }, make("span", {}, `s(${kind[0].toUpperCase()})`),
      bar(node.scores[i], threshold > 0 ? threshold : null), make("span", { class: "value" }, number(node.scores[i])));
    row.title = `Best cosine with a feature of the ${NAMES[kind]}${kind === "residual" ? " stream one layer before" : " output of this layer"}`
      + (node.scores[i] === null ? ": there was none to compare with" : "")
      + (threshold > 0 ? `; threshold ${threshold}` : "");
    return row;
  });
  return part("Scores", ...rows);
}

function bar(value, tick = null) {
  const track = make("span", { class: "track" });
  const fill = make("span", { class: "fill" });
  fill.style.width = `${clamp(value || 0, 0, 1) * 100}%`;
  track.append(fill);
  if (tick !== null) {
    const mark = make("span", { class: "tick" });
    mark.style.left = `${clamp(tick, 0, 1) * 100}%`;
    track.append(mark);
  }
  return track;
}

function edgesOf(node, side, title) {
  if (node[side].length === 0) return null;
  const list = make("ul", { class: "edges" });
  for (const edge of node[side]) {
    const next = other(edge, node);
    const top = next.use && next.use.tokens.length ? make("code", {}, visibleToken(next.use.tokens[0][0])) : null;
    const button = make("button", { type: "button", class: `${next.klass}${edge.shown ? "" : " faint"}`, "data-node": next.id },
      make("i", { class: `dot ${next.kind}` }), make("span", { class: "who" }, next.name, " ", top), bar(edge.score),
      make("span", { class: "value" }, number(edge.score)));
    button.title = `cosine ${number(edge.score, 4)}, null quantile ${quantileText(edge.quantile)}${edge.shown ? "" : "; not shown in the graph now"}`;
    button.addEventListener("click", () => choose(next));
    list.append(make("li", {}, button));
  }
  return part(`${title} (${node[side].length})`, list);
}

function tokensOf(node) {
  if (!DATA.uses) return null;
  if (!node.use || node.use.tokens.length === 0) {
    return part("Top tokens", make("p", { class: "note" }, node.use ? "It never fires on the texts that were read." : "Not measured at this hook."));
  }
  const rate = `fires on ${Number((100 * node.use.rate).toPrecision(3))} % of tokens`;
  const highest = Math.max(...node.use.tokens.map(([, value]) => Math.abs(value)), 1e-30);
  return part("Top tokens", ...node.use.tokens.map(([token, value]) => make("div", { class: "meter token" },
    make("code", {}, visibleToken(token)), bar(Math.abs(value) / highest), make("span", { class: "value" }, activationText(value)))),
    make("p", { class: "note" }, rate));
}

function contextsOf(node) {
  if (!node.use || node.use.contexts.length === 0) return null;
  const highest = Math.max(...node.use.contexts.flatMap((context) => context.activations), 1e-30);
  return part("Where it fires most", ...node.use.contexts.map((context) => {
    const line = make("p", { class: "context" }, context.cut[0] ? make("i", {}, "… ") : null);
    context.tokens.forEach((token, i) => {
      const value = context.activations[i];
      // The space before a word stays outside the shade: at the end of a line it would be an empty box.
      const space = token.startsWith(" ") && token.trim() ? " " : "";
      const shown = make("span", { title: activationText(value), class: i === context.peak ? "peak" : null },
        visibleToken(token.slice(space.length), true));
      if (value > 0) shown.style.setProperty("--strength", clamp(value / highest, 0.12, 1).toFixed(2));
      line.append(space, shown);
    });
    if (context.cut[1]) line.append(make("i", {}, " …"));
    return make("figure", {}, make("figcaption", {}, `${context.text} · ${activationText(context.activations[context.peak])}`), line);
  }));
}
