"""The colours of origins, told apart by the colour-blind too (Okabe and Ito's palette)."""

ORIGIN_COLOURS = {
    "translated": "#0072B2",
    "processed": "#009E73",
    "newborn": "#D55E00",
    "unexplained": "#999999",
}
MODULE_COLOURS = {"mlp": "#CC79A7", "attention": "#E69F00"}
