"""Figures of a report on more than two classes."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_curve, roc_auc_score, roc_curve

from .report import Answers
from .report_figures import CURVES, FAINT, INK, MODEL, STYLE, ReportFigure, draw_calibration, new_axes, svg_of, written

LARGEST, NUMBERED = 20, 10  # classes in the figure of the confusion; up to how many its cells hold numbers
FULLEST = 0.5  # the colour of a cell: numbers are read on it, on a light screen and on a dark one
LONGEST = 20  # characters of a name
DASHES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))  # curves are told apart without colours too


def class_figures(model: Answers) -> list[ReportFigure]:
    """The confusion, how sure the model is when it is right, and the curves of each class against the rest.

    Args:
        model: the answers of the model. Where the messages are all of one class there are no curves.
    """
    with matplotlib.rc_context(STYLE):
        called = model.scores[np.arange(len(model.actual)), model.predicted]
        x, y = "Mean score of a bin (probability of what it is called)", "Part of the bin that is called right"
        drawn = [_draw_confusion(model), draw_calibration(called, model.predicted == model.actual, x, y)]
        counts = np.bincount(model.actual, minlength=len(model.names))
        if len(classes := np.flatnonzero((counts > 0) & (counts < len(model.actual)))):
            drawn += [_draw_roc(model, classes), _draw_precision_recall(model, classes)]
    return drawn


def _draw_confusion(model: Answers) -> ReportFigure:
    table = confusion_matrix(model.actual, model.predicted, labels=range(len(model.names)))
    mistakes = table.sum(0) + table.sum(1) - 2 * table.diagonal()
    shown = np.flatnonzero(table.sum(0) + table.sum(1))
    text = "Of each label, what its messages are called; the fuller the colour, the larger the part."
    if len(shown) > LARGEST:
        shown = np.sort(shown[np.argsort(-mistakes[shown], kind="stable")[:LARGEST]])
        text += f" The {LARGEST} labels with the most mistakes are shown."
    parts = table / np.maximum(1, table.sum(1, keepdims=True))
    names = [_name(model, label) for label in shown]
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    axes = figure.subplots()
    for row, label in enumerate(shown):
        for column, called in enumerate(shown):
            if table[label, called]:
                cell = (column - 0.5, row - 0.5), 1, 1
                axes.add_patch(matplotlib.patches.Rectangle(*cell, color=MODEL, alpha=FULLEST * parts[label, called]))
            if len(shown) <= NUMBERED:
                colour = INK if table[label, called] else FAINT
                axes.text(column, row, f"{table[label, called]:,}", ha="center", va="center", color=colour)
    edges = np.arange(len(shown) + 1) - 0.5
    axes.vlines(edges, -0.5, len(shown) - 0.5, color=FAINT, linewidth=0.4)
    axes.hlines(edges, -0.5, len(shown) - 0.5, color=FAINT, linewidth=0.4)
    axes.set(title="Confusion (row: label, column: called)", xlim=edges[[0, -1]], ylim=edges[[-1, 0]])
    size = 10 if len(shown) <= NUMBERED else 7
    axes.set_xticks(range(len(shown)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(len(shown)), names, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return ReportFigure(svg_of(figure), text)


def _draw_roc(model: Answers, classes: np.ndarray) -> ReportFigure:
    x, y = "False-positive rate (part of other messages called so)", "Recall (part of the label found)"
    figure, axes = new_axes("ROC curve of each label against the rest", x, y)
    areas = {label: roc_auc_score(model.actual == label, model.scores[:, label]) for label in classes}
    chosen, text = _chosen(areas, "smallest areas")
    for label, style in chosen:
        rates, recalls, _ = roc_curve(model.actual == label, model.scores[:, label])
        axes.plot(rates, recalls, label=f"{_name(model, label)}, area {areas[label]:.3f}", **style)
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1)
    figure.legend(loc="outside lower center", ncols=2)
    return ReportFigure(
        svg_of(figure), f"A label that is found, and others that are called so, from score to score.{text}"
    )


def _draw_precision_recall(model: Answers, classes: np.ndarray) -> ReportFigure:
    x, y = "Recall (part of the label found)", "Precision (part of finds that is it)"
    figure, axes = new_axes("Precision and recall of each label", x, y)
    means = {label: average_precision_score(model.actual == label, model.scores[:, label]) for label in classes}
    chosen, text = _chosen(means, "lowest means")
    for label, style in chosen:
        precisions, recalls, _ = precision_recall_curve(model.actual == label, model.scores[:, label])
        name = f"{_name(model, label)}, mean {means[label]:.3f}"
        axes.plot(recalls, precisions, drawstyle="steps-post", label=name, **style)
    figure.legend(loc="outside lower center", ncols=2)
    return ReportFigure(
        svg_of(figure), f"How much of what is called by a label is of it, the more of it is found.{text}"
    )


def _chosen(figures: dict[int, float], lowest: str) -> tuple[list[tuple[int, dict]], str]:
    """The classes that are drawn, each with its style, and what to say if these are not all: the worst are."""
    worst = sorted(sorted(figures, key=figures.get)[: len(CURVES)])
    styles = [{"color": colour, "linestyle": dashes} for colour, dashes in zip(CURVES, DASHES, strict=True)]
    text = "" if len(worst) == len(figures) else f" The {len(worst)} labels with the {lowest} are shown."
    return list(zip(worst, styles, strict=False)), text


def _name(model: Answers, label: int) -> str:
    name = model.names[label]
    return written(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")
