"""Tables and page are readable for any labels; the page loads nothing and never executes text from a message."""

import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from small_reports import HOME, NAMES, ROWS, ROWS_3, TRAIN, TRAIN_3, report_of

from hf_spam import SpamClassifier
from hf_spam.evaluation.figures import COLOURS, report_figures
from hf_spam.evaluation.page import TEMPLATE, headline, render_page, report_tables, write_page
from hf_spam.text import printable


class Page(HTMLParser):
    """The elements and texts of a page, as a browser finds them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text = Counter(), [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += attributes

    def handle_data(self, data):
        self.text.append(data)


def render(report, figures=()) -> str:
    values = report.values
    title = f"{values['model']} on {values['data']}"
    return render_page(title, headline(values), report_tables(values), values["versions"], figures)


def texts_in(figure) -> list[str]:
    svg, _ = figure
    return [re.sub("<.*?>", "", text) for text in re.findall(r"<text .*?</text>", svg, re.DOTALL)]


NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)> \"' & {{ 7 * 7 }} \x1b[31m\x00"


def test_page_runs_nothing_and_loads_nothing(tmp_path):
    """Messages and file names are shown as text, whatever they contain."""
    report = report_of([(NASTY, 1, 0.1), *ROWS], TRAIN, name="<i>model", source="<b>.csv")
    html = render(report, report_figures(report))
    page = Page(html)
    assert not {"script", "img", "b", "i", "iframe", "link", "object", "image"} & set(page.tags)
    assert page.tags["svg"] == 4 and page.tags["table"] == len(report_tables(report.values))
    assert any(NASTY.replace("\x1b", "\ufffd").replace("\x00", "\ufffd") == text for text in page.text)
    assert not any("\x1b" in text or "\x00" in text for text in page.text)
    fetched = [v for k, v in page.attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]
    assert fetched == [] and not any(k.startswith("on") for k, _ in page.attributes)
    assert "url(" not in "".join(v or "" for _, v in page.attributes).replace("url(#", "")
    folder = tmp_path / "new" / "folder"
    for values, written in (({}, "old"), (report.values, html)):
        write_page(folder, "report", values, written)
        (folder / "model.safetensors").touch()
    left = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(left) == {"report.html", "report.json", "model.safetensors"} and left["report.html"] == html
    assert json.loads(left["report.json"]) == report.values


def test_words_of_errors_are_coloured():
    """Each with its contribution; the text of the message stays as it is, and runs nothing."""
    text = f"Win {NASTY} prize"
    classifier = SpamClassifier.from_pretrained()
    report = report_of([(text, 1, 0.1), *ROWS], classifier=classifier)
    (explanation,) = classifier.explain(text)
    error = report.values["details"]["errors"][0]
    assert error["text"] == text and error["log_odds"] == pytest.approx(explanation.log_odds)
    assert [word["start"] for word in error["words"]] == [word.start for word in explanation.words]
    page = Page(render(report))
    titles = [value for name, value in page.attributes if name == "title"]
    assert titles[: len(error["words"])] == [f"{word.contribution:+.2f}" for word in explanation.words]
    assert printable(text) in "".join(page.text) and not {"script", "img"} & set(page.tags)
    strongest = max(abs(word.contribution) for word in explanation.words)
    assert f"--strength: {round(min(60, 30 * strongest))}%" in [v for k, v in page.attributes if k == "style"]
    assert report_tables(report.values)[-1].rows[0][-1] == text


def test_headline_says_what_was_measured():
    lines = headline(report_of(ROWS, TRAIN, threshold=0.95, name="mine", source="data.csv").values)
    assert lines[0] == "Model: mine. Data: data.csv. Splits: by hand."
    assert "The model labels a message spam if its score is at least 0.9500000." in lines
    (verdict,) = [line for line in lines if line.startswith("On test, the ")]
    assert "(the model uses its threshold, the baseline has none)" in verdict and "which may be chance" in verdict
    _, *others = headline(report_of(ROWS, TRAIN).values)
    assert not [line for line in others if "threshold" in line or "score" in line]
    three = headline(report_of(ROWS_3, TRAIN_3, ["ad", "Spam", "talk"], threshold=0.2).values)
    assert "The model labels a message Spam if its score is at least 0.2000000." in three


@pytest.mark.parametrize("count", [3, 30])
def test_tables_of_many_labels(count):
    """Every row has a cell for each column; a large confusion matrix is left to report.json."""
    names = [*NAMES, *(f"label {i}" for i in range(3, count))]
    rows = [(text, label, [*answer, *[0.0] * (count - 3)]) for text, label, answer in ROWS_3]
    report = report_of(rows, TRAIN_3, names)
    tables = {table.title: table for table in report_tables(report.values)}
    assert all(len(set(map(len, [table.columns, *table.rows]))) <= 1 for table in tables.values())
    confusion = tables["Confusion matrix, test"]
    assert confusion.columns == (["label", *(f"predicted {name}" for name in names)] if count == 3 else [])
    assert count == 3 or "30 labels" in confusion.note
    assert "Thresholds, test" not in tables and len(report_figures(report)) == 1


def test_two_labels_of_other_names():
    """Their names are used everywhere, escaped, and the word spam does not appear."""
    names = ["<i>no</i>", "$yes$ & 是"]
    rows = [("a b", 1, 0.9), ("b c", 0, 0.8), ("c d", 0, 0.1), ("d e", 1, 0.2)]
    report = report_of(rows, rows, names)
    page = render(report, report_figures(report))
    assert list(report.values["details"]["confusion"]) == names[::-1] and report.values["positive_label"] == names[1]
    assert "<i>" not in page and "&lt;i&gt;no" in page
    assert "Score (probability of $yes$ &amp; 是)</text>" in page  # in a figure: not a formula
    cells = [cell for table in report_tables(report.values) for row in [table.columns, *table.rows] for cell in row]
    assert "spam" not in " ".join(cells) and "predicted $yes$ & 是" in cells


def test_figures_show_the_report_in_the_colours_of_the_page():
    roc, precision_recall, calibration, scores = figures = report_figures(report_of(ROWS, TRAIN))
    assert {"ROC curve", "False-positive rate", "Recall", "model", "baseline", "chance"} <= set(texts_in(roc))
    assert {"Precision", "baseline"} <= set(texts_in(precision_recall))
    assert {"perfect calibration", "Fraction of spam"} <= set(texts_in(calibration))
    assert {"spam", "not spam", "Score (probability of spam)"} <= set(texts_in(scores))
    svg = "".join(svg for svg, _ in figures)
    assert not set(re.findall("#[0-9a-f]{6}", svg)) - {colour[-8:-1] for colour in COLOURS.values()}
    for name in re.findall(r"var\((--[\w-]+),", "".join(COLOURS.values())):
        assert TEMPLATE.read_text().count(f"{name}: #") == 2 and name in svg  # light and dark


def test_figures_without_curves():
    """Messages of a single label have no curves, and neither do more than two labels."""
    (scores,) = report_figures(report_of([("a", 0, 0.2), ("b", 0, 0.7)]))
    assert "Score (probability of spam)" in texts_in(scores)
    (confidence,) = report_figures(report_of([("a", 0, HOME), ("b", 1, HOME)], names=NAMES))
    assert {"correct predictions", "wrong predictions", "Highest probability"} <= set(texts_in(confidence))
