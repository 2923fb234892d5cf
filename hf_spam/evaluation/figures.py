"""Figures of a report, as inline SVG in the colours of the page."""

import io
import warnings

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from ..text import printable
from .metrics import BINS, Predictions
from .report import Report

# Placeholder colours for Matplotlib; in the SVG they become CSS variables, which differ in dark mode.
# Blue and orange are safe for colour-blind readers (Okabe and Ito 2008).
MODEL, BASELINE, INK, FAINT = "#010101", "#020202", "#030303", "#040404"
COLOURS = {
    MODEL: "var(--model, #0072b2)",
    BASELINE: "var(--baseline, #c25400)",
    INK: "currentColor",
    FAINT: "var(--faint, #6b6b6b)",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_spam",
    "text.parse_math": False,  # the name of a class may have dollar signs
    "legend.frameon": False,
    "lines.linewidth": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def report_figures(report: Report) -> list[tuple[str, str]]:
    """Draw ROC, precision-recall and calibration curves, if two labels occur, and the scores: inline SVG, caption.

    There is no calibration curve of scores that only rank the messages.
    """
    given = report.model
    with matplotlib.rc_context(STYLE):
        if given.positive is None or len(np.unique(given.labels)) < 2:
            return [_draw_scores(given)]
        return [
            _draw_curves(report, RocCurveDisplay, "ROC curve", "False-positive rate", "Recall"),
            _draw_curves(report, PrecisionRecallDisplay, "Precision-recall curve", "Recall", "Precision"),
            *([] if given.only_ranks else [_draw_calibration(report)]),
            _draw_scores(given),
        ]


def _draw_curves(report: Report, display: type, title: str, x: str, y: str) -> tuple[str, str]:
    """Draw the curves of model and baseline with one of scikit-learn's displays."""
    axes = _new_axes()
    curves = ((report.model, "model", MODEL, "-"), (report.baseline, "baseline", BASELINE, "--"))
    for given, label, colour, line in curves:
        if given is not None:
            display.from_predictions(
                given.is_spam,
                given.scores,
                ax=axes,
                curve_kwargs={"color": colour, "linestyle": line, "label": label},
                plot_chance_level=given is report.model,
                chance_level_kw={"color": FAINT, "linestyle": ":", "label": "chance"},
            )
    return _finished(axes, title, x, y, f"{y} against {x.lower()} for every threshold.")


def _draw_calibration(report: Report) -> tuple[str, str]:
    """Draw the calibration curve with intervals, which scikit-learn's `CalibrationDisplay` does not have."""
    rows, spam = report.values["details"]["calibration"], printable(report.model.names[report.model.positive])
    means = np.array([row["mean_score"] for row in rows])
    value, low, high = (np.array([row["spam"][end] for row in rows]) for end in ("value", "low", "high"))
    bars = np.maximum(0, [value - low, high - value])  # rounding may make them negative, which Matplotlib rejects
    axes = _new_axes()
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", label="perfect calibration")
    axes.errorbar(means, value, bars, color=MODEL, fmt="o", capsize=4, label="model, 95 % intervals")
    text = f"{BINS} bins of equal width. Below the dotted line the scores are too high, above it too low."
    x, y = f"Mean score (probability of {spam})", f"Fraction of {spam}"
    return _finished(axes, "Calibration curve", x, y, text)


def _draw_scores(given: Predictions) -> tuple[str, str]:
    """Draw a histogram of the scores of both labels, or, with more labels, of the highest probabilities."""
    if given.positive is None:
        chosen, names = given.labels == given.predicted, ["correct predictions", "wrong predictions"]
        scores, x = given.probabilities.max(1), "Highest probability"
    else:
        chosen, names = given.is_spam, [printable(given.names[label]) for label in (given.positive, 1 - given.positive)]
        scores, x = given.scores, "Score" if given.only_ranks else f"Score (probability of {names[0]})"
    axes = _new_axes()
    edges = np.linspace(0, 1, 2 * BINS + 1)
    axes.hist(scores[chosen], edges, color=MODEL, alpha=0.6, label=names[0])
    axes.hist(scores[~chosen], edges, histtype="step", color=INK, linewidth=1.5, label=names[1])
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    text = "Scores of all messages. The further apart the two groups, the fewer errors."
    return _finished(axes, "Scores", x, "Messages (log scale)", text)


def _new_axes() -> Axes:
    axes = Figure(figsize=(5.2, 4), layout="constrained").subplots()
    axes.set_xlim(-0.02, 1.02)
    return axes


def _finished(axes: Axes, title: str, x: str, y: str, text: str) -> tuple[str, str]:
    """Set title and axis labels, move the legend below the plot, and return it in the colours of the page."""
    axes.set(title=title, xlabel=x, ylabel=y, aspect="auto")
    if (legend := axes.get_legend()) is not None:  # drawn by scikit-learn
        legend.remove()
    axes.figure.legend(loc="outside lower center", ncols=3)
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing in Matplotlib's font, not in the browser's
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        axes.figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    for placeholder, colour in COLOURS.items():
        svg = svg.replace(placeholder, colour)
    return svg[svg.index("<svg") :], text  # without the XML declaration, which HTML does not allow
