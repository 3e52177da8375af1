// What is left of the graph: the edges that pass the thresholds, and the nodes that they join.

const wanted = {
  score: -Infinity,     // least cosine of an edge
  quantile: -Infinity,  // least null quantile; without a bound unless switched on
  linked: false,        // only what a path over edges left, in either direction, joins to a start
  hidden: new Set(),    // classes switched off in the legend
};

const passes = (edge) =>
  edge.score >= wanted.score
  && (wanted.quantile === -Infinity || (edge.quantile !== null && edge.quantile >= wanted.quantile))
  && !wanted.hidden.has(edge.source.klass) && !wanted.hidden.has(edge.target.klass);

function linkedToSeeds() {
  const reached = new Set(nodes.filter((node) => node.start && !wanted.hidden.has(node.klass)));
  for (const node of reached) {  // a set gives what is added while it is gone through
    for (const edge of [...node.into, ...node.from]) if (edge.shown) reached.add(other(edge, node));
  }
  return reached;
}

// Set `shown` of every node and edge.
function filterGraph() {
  for (const edge of edges) edge.shown = passes(edge);
  if (wanted.linked) {
    const reached = linkedToSeeds();
    for (const edge of edges) edge.shown = edge.shown && reached.has(edge.source);
  }
  const all = wanted.score === -Infinity && wanted.quantile === -Infinity && !wanted.linked;
  for (const node of nodes) {
    const neverJoined = all && node.into.length + node.from.length === 0;
    const joined = node.into.some((edge) => edge.shown) || node.from.some((edge) => edge.shown);
    node.shown = !wanted.hidden.has(node.klass) && (node.start || joined || neverJoined);
  }
}
