// Names and top tokens under the nodes: as much as there is room for.

function room() {
  const columns = size.column * view.scale, rows = size.row * view.scale;
  return {
    name: columns >= 94 && rows >= 26 ? "full" : columns >= 42 && rows >= 23 ? "index" : "none",
    tokens: columns >= 52 && rows >= 42 ? clamp(Math.floor((rows - 44) / 15), 1, 5) : 0,
    letters: Math.floor(columns / 7) - 1,
  };
}

function label(node, at) {
  const name = node.start || node === chosen || node.found || node.lit ? (at.name === "none" ? "index" : at.name) : at.name;
  const wantedText = `${name} ${at.tokens} ${at.letters}`;
  if (node.labelled === wantedText) return;
  node.labelled = wantedText;
  for (const old of node.mark.querySelectorAll("text")) old.remove();
  if (name === "none") return;
  const top = node.start ? 21 : 18;
  node.mark.append(draw("text", { class: "name", y: top }));
  node.mark.lastChild.textContent = name === "full" ? node.name : String(node.index);
  const tokens = node.use ? node.use.tokens.slice(0, at.tokens) : [];
  tokens.forEach(([token], i) => {
    node.mark.append(draw("text", { class: "token", y: top + 13 * (i + 1) }));
    node.mark.lastChild.textContent = shortToken(token, at.letters);
  });
}

// Only nodes in sight have letters: thousands that nobody sees would make every move slow.
function labelWhatIsSeen() {
  const at = room(), reach = 60;
  for (const node of nodes) {
    const x = xOf(node) * view.scale + view.x, y = yOf(node) * view.scale + view.y;
    if (x > -reach && x < view.width + reach && y > -reach && y < view.height + reach) label(node, at);
  }
}

let labelling = 0;
function labelSoon() {
  if (labelling) return;
  labelling = setTimeout(() => {
    labelling = 0;
    labelWhatIsSeen();
  }, 30);
}
followView.push(labelSoon);
