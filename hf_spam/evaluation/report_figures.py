"""Figures of a report: inline SVG in the colours of the page; those of two classes, and what all are drawn with."""

import io
import warnings
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from ..text import printable
from .intervals import wilson
from .metrics import BINS, filled_bins
from .report import Answers

# What a report's figures are drawn in. In the page each stands for a colour of the page's, which is another on a dark
# screen; blue and orange can be told apart by everyone (Okabe and Ito 2008).
MODEL, BASELINE, INK, FAINT = "#010101", "#020202", "#030303", "#040404"
CURVES = [f"#0505{i:02d}" for i in range(6)]
ON_WHITE = ("#0072b2", "#c25400", "#00795a", "#a8407a", "#7d6a00", "#5b4bb7")  # of as many classes
COLOURS = {
    MODEL: "var(--model, #0072b2)",
    BASELINE: "var(--baseline, #c25400)",
    INK: "currentColor",
    FAINT: "var(--faint, #6b6b6b)",
    **{CURVES[i]: f"var(--curve-{i}, {colour})" for i, colour in enumerate(ON_WHITE)},
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_spam",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report: inline SVG in the colours of the page around it, and what it shows."""

    svg: str
    text: str


def report_figures(model: Answers, baseline: Answers | None) -> list[ReportFigure]:
    """ROC, precision-recall and calibration curve, and the scores of ham and spam.

    Args:
        model: the answers of the model, of two classes. Of messages of one class there are the scores only.
        baseline: those of the baseline to the same messages, which are drawn beside it.
    """
    with matplotlib.rc_context(STYLE):
        drawn = [_draw_scores(model)]
        if 0 < model.actual.sum() < len(model.actual):
            drawn = [
                _draw_roc(model, baseline),
                _draw_precision_recall(model, baseline),
                draw_calibration(
                    model.scores,
                    model.actual,
                    f"Mean score of a bin (probability of {_words(model)[1]})",
                    f"Part of the bin that is {_words(model)[1]}",
                ),
                *drawn,
            ]
    return drawn


def _draw_roc(model: Answers, baseline: Answers | None) -> ReportFigure:
    ham, spam = _words(model)
    x = f"False-positive rate (part of {ham} called {spam})"
    figure, axes = new_axes("ROC curve", x, f"Recall (part of {spam} found)")
    for answers, style in _curves(model, baseline):
        rates, recalls, _ = roc_curve(answers.actual, answers.scores)
        axes.plot(rates, recalls, **style)
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", label="by chance")
    at = model.predicted[~model.actual].mean(), model.predicted[model.actual].mean()
    axes.plot(*at, "o", color=MODEL, label="the model, as it classifies", clip_on=False)
    figure.legend(loc="outside lower center", ncols=2)
    text = f"{spam[:1].upper()}{spam[1:]} that is found, and {ham} that is lost for it, from score to score."
    return ReportFigure(svg_of(figure), text)


def _draw_precision_recall(model: Answers, baseline: Answers | None) -> ReportFigure:
    _, spam = _words(model)
    x, y = f"Recall (part of {spam} found)", f"Precision (part of finds that is {spam})"
    figure, axes = new_axes("Precision and recall", x, y)
    for answers, style in _curves(model, baseline):
        precisions, recalls, _ = precision_recall_curve(answers.actual, answers.scores)
        axes.plot(recalls, precisions, drawstyle="steps-post", **style)
    axes.axhline(model.actual.mean(), color=FAINT, linestyle=":", label="by chance")
    figure.legend(loc="outside lower center", ncols=3)
    return ReportFigure(svg_of(figure), f"How much of what is called {spam} is {spam}, the more of it is found.")


def draw_calibration(scores: np.ndarray, hits: np.ndarray, x: str, y: str) -> ReportFigure:
    """How often what has a score is what the score is for.

    Args:
        scores: of the messages, (N,).
        hits: whether each is that, (N,) bool.
        x, y: what is written below and beside it.
    """
    figure, axes = new_axes("Calibration", x, y)
    _, messages, hit, mean = map(np.array, zip(*filled_bins(scores, hits), strict=True))
    low, high = np.array([wilson(*counts) for counts in zip(hit, messages, strict=True)]).T
    part = hit / messages
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", label="scores are probabilities")
    bars = np.maximum(0, [part - low, high - part])  # a rounding error below 0 is refused
    axes.errorbar(mean, part, bars, color=MODEL, fmt="o", capsize=4, label="the model, 95 % intervals")
    figure.legend(loc="outside lower center", ncols=2)
    text = f"{BINS} bins of equal width. Below the dotted line scores are too high, above it too low."
    return ReportFigure(svg_of(figure), text)


def _draw_scores(model: Answers) -> ReportFigure:
    ham, spam = _words(model)
    figure, axes = new_axes("Scores", f"Score (probability of {spam})", "Messages (logarithmic)")
    axes.set_ylim(0.7, 1, auto=True)
    edges = np.linspace(0, 1, 2 * BINS + 1)
    axes.hist(model.scores[model.actual], edges, color=MODEL, alpha=0.6, label=spam)
    axes.hist(model.scores[~model.actual], edges, histtype="step", color=INK, linewidth=1.5, label=ham)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.legend(loc="upper center")
    text = f"{spam[:1].upper()}{spam[1:]} that has a low score is missed, {ham} that has a high one is a false alarm."
    return ReportFigure(svg_of(figure), text)


def _words(answers: Answers) -> list[str]:
    """What messages of the negative and of the positive class are called, as Matplotlib writes it."""
    return [written("ham" if name == "not spam" else name) for name in answers.names]


def written(name: str) -> str:
    """The name of a label as it is given to Matplotlib, which would read mathematics in it."""
    return printable(name).replace("$", r"\$")


def _curves(model: Answers, baseline: Answers | None) -> list[tuple[Answers, dict[str, str]]]:
    curves = [(model, {"color": MODEL, "label": "the model"})]
    if baseline is not None:
        curves.append((baseline, {"color": BASELINE, "linestyle": "--", "label": "baseline"}))
    return curves


def new_axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with axes from 0 to 1."""
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    return figure, axes


def svg_of(figure: Figure) -> str:
    """A figure as inline SVG, in the colours of the page."""
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a label's name: what shows the page has other fonts
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    for drawn, shown in COLOURS.items():
        svg = svg.replace(drawn, shown)
    return svg[svg.index("<svg") :]  # without the XML declaration, which an HTML page must not hold
