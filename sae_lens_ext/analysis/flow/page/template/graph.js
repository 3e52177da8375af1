// The graph: its nodes and edges as objects, and who is next to whom.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const ORIGINS = ["", "translated", "processed", "newborn", "unexplained"];
const KINDS = ["residual", "mlp", "attention"];  // the order of a node's scores
const NAMES = { residual: "residual", mlp: "MLP", attention: "attention" };

// A class is what the legend tells apart: a residual feature's origin, or the module a feature is of.
const CLASSES = [
  { key: "translated", name: "translated", note: "The residual feature of the layer before goes on." },
  { key: "processed", name: "processed", note: "It was there before, and a module adds to it." },
  { key: "newborn", name: "newborn", note: "A module writes it; it was not there before." },
  { key: "unexplained", name: "unexplained", note: "Nothing before resembles it." },
  { key: "first", name: "no predecessors", note: "A residual feature with no site before it to compare with." },
  { key: "attention", name: "attention feature", note: "A feature of the attention's output." },
  { key: "mlp", name: "MLP feature", note: "A feature of the MLP's output." },
];

const starts = new Set(DATA.starts);

const nodes = DATA.nodes.hook.map((h, id) => {
  const hook = DATA.hooks[h], index = DATA.nodes.index[id], origin = DATA.nodes.origin[id];
  const use = DATA.uses && DATA.uses[id];
  return {
    id, hook, index, use,
    name: `${hook.short}/${index}`,
    kind: hook.kind,
    origin: ORIGINS[origin],
    klass: hook.kind !== "residual" ? hook.kind : ORIGINS[origin] || "first",
    scores: DATA.nodes.scores[id],
    column: DATA.nodes.column[id], lane: DATA.nodes.lane[id], row: DATA.nodes.row[id],
    start: starts.has(id),
    url: hook.neuronpedia && hook.neuronpedia + index,
    into: [], from: [],  // edges that lead to it, and that leave it
    shown: true,
  };
});

const edges = DATA.edges.source.map((s, id) => {
  const edge = {
    id, source: nodes[s], target: nodes[DATA.edges.target[id]],
    score: DATA.edges.score[id], quantile: DATA.edges.quantile[id],
    shown: true,
  };
  edge.source.from.push(edge);
  edge.target.into.push(edge);
  return edge;
});
for (const node of nodes) for (const list of [node.into, node.from]) list.sort((a, b) => b.score - a.score);

const hasQuantiles = edges.some((edge) => edge.quantile !== null);
const other = (edge, node) => (edge.source === node ? edge.target : edge.source);
