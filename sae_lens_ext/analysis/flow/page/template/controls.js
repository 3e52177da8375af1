// The thresholds and the legend.

// Null quantiles crowd at 1, so the slider's steps do as well.
const QUANTILES = [0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1];
const BARS = 36;

function refilter() {
  filterGraph();
  showFiltered();
  if (chosen) fillPanel(chosen);
  lightUp();
}

function buildScoreSlider() {
  const slider = byId("score"), scores = edges.map((edge) => edge.score);
  const low = Math.floor(Math.min(0.95, ...scores) * 100) / 100, high = Math.max(low + 0.01, Math.ceil(Math.max(0, ...scores) * 100) / 100);
  Object.assign(slider, { min: low, max: high, step: 0.01, value: low, disabled: edges.length === 0 });
  const tall = new Array(BARS).fill(0);
  for (const score of scores) tall[clamp(Math.floor((score - low) / (high - low) * BARS), 0, BARS - 1)] += 1;
  const most = Math.max(...tall, 1);
  byId("histogram").setAttribute("viewBox", `0 0 ${BARS} 20`);
  byId("histogram").setAttribute("preserveAspectRatio", "none");
  const bars = tall.map((n, i) => draw("rect", { x: i + 0.08, width: 0.84, y: 20 - 20 * Math.sqrt(n / most), height: 20 * Math.sqrt(n / most) }));
  byId("histogram").append(...bars);
  const follow = () => {
    const value = Number(slider.value);
    wanted.score = value <= low ? -Infinity : value;
    byId("score-shown").textContent = number(value);
    slider.setAttribute("aria-valuetext", number(value));
    bars.forEach((shape, i) => shape.classList.toggle("below", low + (i + 0.5) * (high - low) / BARS < value));
    refilter();
  };
  slider.addEventListener("input", follow);
  return follow;
}

function buildQuantileSlider() {
  const slider = byId("quantile"), box = byId("quantile-on");
  Object.assign(slider, { min: 0, max: QUANTILES.length - 1, step: 1, value: QUANTILES.indexOf(0.99) });
  if (!hasQuantiles) { byId("by-quantile").hidden = true; return; }
  const follow = () => {
    const value = QUANTILES[slider.value];
    slider.disabled = !box.checked;
    wanted.quantile = box.checked ? value : -Infinity;
    byId("quantile-shown").textContent = String(value);
    slider.setAttribute("aria-valuetext", String(value));
    byId("by-quantile").classList.toggle("off", !box.checked);
    refilter();
  };
  slider.addEventListener("input", follow);
  box.addEventListener("input", follow);
  follow();
}

function buildLegend() {
  for (const { key, name, note } of CLASSES) {
    const n = nodes.filter((node) => node.klass === key).length;
    if (n === 0) continue;
    const shape = key === "mlp" || key === "attention" ? key : "residual";
    const button = make("button", { type: "button", class: key, "data-class": key, "aria-pressed": "true", title: `${note} Click to hide or show.` },
      make("i", { class: `dot ${shape}` }), name, make("small", {}, n.toLocaleString("en")));
    button.addEventListener("click", () => {
      if (!wanted.hidden.delete(key)) wanted.hidden.add(key);
      button.setAttribute("aria-pressed", String(!wanted.hidden.has(key)));
      refilter();
    });
    byId("legend").append(button);
  }
  if (starts.size > 0) byId("legend").append(make("span", { class: "key" }, make("i", { class: "start-ring" }), "start"));
  const widths = draw("svg", { width: 66, height: 14, "aria-hidden": "true" });
  [0.2, 0.5, 0.9].forEach((score, i) => widths.append(draw("path", { d: `M${i * 23} 7h20`, "stroke-width": edgeWidth(score) })));
  byId("legend").append(make("span", { class: "key", title: "Width of an edge: cosine 0.2, 0.5 and 0.9" }, widths, "cosine 0.2, 0.5, 0.9"));
}

byId("linked").addEventListener("input", (event) => { wanted.linked = event.target.checked; refilter(); });
byId("by-start").hidden = starts.size === 0;
