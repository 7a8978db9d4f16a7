"""Draws the curves of the report as SVG that stays the same while the figures do. Called by `report`."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

from bench.ground import Curve

INCHES = (7.0, 3.6)
HEADROOM = 1.3  # the legend has room above the curves


def draw(curve: Curve, folder: Path) -> Path:
    """A file of the curve's name."""
    # ids from a fixed salt and no date, so that a picture differs only where its curve does; words stay words
    with matplotlib.rc_context({"svg.hashsalt": "claim_process", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=INCHES, layout="constrained")
        for label, points in curve.series.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        highest = max(y for points in curve.series.values() for _, y in points)
        axes.set(title=curve.title, xlabel=curve.x, ylabel=curve.y, ylim=(0, HEADROOM * highest))
        if curve.logarithmic:
            axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
        file = folder / f"{curve.name}.svg"
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)
    file.write_text("\n".join(line.rstrip() for line in file.read_text().splitlines()) + "\n")
    return file
