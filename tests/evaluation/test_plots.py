"""Training curves show each value where it was measured."""

import pytest

from hf_spam.evaluation import plots


@pytest.mark.parametrize(
    ("val_values", "title"),
    [([0.8, 0.5], "Loss on training and validation messages"), ([], "Loss on training messages")],
)
def test_training_curves(val_values, title, monkeypatch, tmp_path):
    """A title, three named axes, a legend and the values themselves, in a PDF and a PNG."""
    drawn, savefig = [], plots.Figure.savefig
    monkeypatch.setattr(
        plots.Figure, "savefig", lambda figure, *to, **how: drawn.append(figure) or savefig(figure, *to, **how)
    )
    plots.plot_values([0.1, 1.5], [0.7, 0.4], val_values, examples_per_epoch=50, label="loss", output_dir=tmp_path)
    assert (tmp_path / "loss-plot.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "loss-plot.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    (above,) = axes.child_axes
    assert drawn[0].get_suptitle() == title
    assert (axes.get_xlabel(), axes.get_ylabel(), above.get_xlabel()) == ("Epochs", "Loss", "Examples seen")
    for line, values in zip(axes.lines, ([0.7, 0.4], val_values), strict=False):
        assert line.get_xydata().tolist() == [[0.1, values[0]], [1.5, values[1]]]
    assert axes.get_xlim()[0] == 0 and above.get_xlim()[1] == pytest.approx(50 * axes.get_xlim()[1])
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["Training loss", *["Validation loss"] * bool(val_values)]
