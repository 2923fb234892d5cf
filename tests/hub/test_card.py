"""The model card shows the numbers of the run, and nothing private or unmeasured."""

import html
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_line import hf_spam
from huggingface_hub import ModelCard

from hf_spam import SpamClassifier
from hf_spam.conversion.loading import BUNDLED, CARD
from hf_spam.files import files_in
from hf_spam.hub.card import (
    HUB_METRICS,
    METRICS,
    PLACEHOLDER,
    SPAM_EXAMPLE,
    SPAM_LABELS,
    inherited,
    render_card,
    render_export_card,
)

VALUES = dict(zip(METRICS, (0.91, 0.92, 0.93, 0.94, 0.85, 0.96, 0.0123456789), strict=True)) | {"unshown": 0.5}
RECIPE = {"name": "book", "summary": "the book's settings", "data": "uci", "protocol": "book", "lora_r": None}
RECIPE |= {"base": "openai-community/gpt2", "learning_rate": 5e-05}
TRAINING = {
    "data": "uci",
    "metrics": {"train": {**VALUES, "f1": 0.99}, "validation": {**VALUES, "f1": 0.95}, "test": VALUES},
    "parameters": 1_234,
    "trained_parameters": 18,
    "examples_seen": 12_345,
    "seconds": 67.8,
}


def trained(labels=SPAM_LABELS, *, recipe: dict | None = None, **facts) -> str:
    """Return the card of a trained model."""
    recipe = {**RECIPE, **(recipe or {})}
    positive = labels[1] if len(labels) == 2 else None
    given = {"positive_label": positive, "base_model": recipe["base"], **TRAINING, **facts}
    return render_card(labels=labels, recipe=recipe, **given)


def table(card: ModelCard) -> dict[str, str]:
    """Return the rows of the table of results by their first cell."""
    rows = [line for line in card.text.splitlines() if line.count("|") == len(METRICS) + 2]
    return {row.split("|")[1].strip(): row for row in rows[2:]}


def test_numbers_match_the_run():
    """The `model-index` holds the test split's metrics to the last digit, and the table all splits."""
    card = ModelCard(trained(), ignore_metadata_errors=False)
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        HUB_METRICS.get(name, name): VALUES[name] for name in METRICS
    }
    assert {(result.dataset_split, result.dataset_type) for result in results.values()} == {
        ("test", "ucirvine/sms_spam")
    }
    rows = table(card)
    assert "0.9900" in rows["train"] and "0.9500" in rows["validation"] and "0.9400" in rows["test"]
    assert "Parameters: 1,234, 18 trained\n" in card.text and "12,345 examples in 68 s" in card.text


def test_a_checkpoint_shows_its_validation_split():
    """Results that were not measured are neither shown nor claimed."""
    card = ModelCard(trained(metrics={"validation": {**VALUES, "roc_auc": None}}))
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    assert "roc_auc" not in {result.metric_type for result in card.data.eval_results}
    assert "| - |" in card.text and "plot" not in card.text
    assert ModelCard(trained(metrics={})).data.eval_results is None


def test_baseline_rows_are_below_the_rows_of_the_model():
    baseline = {"validation": {**VALUES, "f1": 0.9512}, "test": {**VALUES, "f1": 0.9301, "mcc": None}}
    card = ModelCard(trained(baseline=baseline, verdicts=["On test, the model is ahead."]))
    assert list(table(card)) == ["train", "validation", "validation, baseline", "test", "test, baseline"]
    assert "0.9301" in table(card)["test, baseline"] and "On test, the model is ahead." in card.text
    assert {result.metric_value for result in card.data.eval_results if result.metric_type == "f1"} == {0.94}
    assert "baseline" not in trained()


def test_the_books_run():
    card = ModelCard(trained(plots=["loss", "accuracy"]))
    assert card.data.base_model == "openai-community/gpt2" and card.data.datasets == ["ucirvine/sms_spam"]
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-classification"
    for words in ("CC BY 4.0", "`openai-community/gpt2`", "| `learning_rate` | 5e-05 |", "transformers 5", "hf-spam 0"):
        assert words in card.text
    assert f'pipeline("text-classification", model="{PLACEHOLDER}", trust_remote_code=True)' in card.text
    assert "![Loss](loss-plot.png)" in card.text and "![Accuracy](accuracy-plot.png)" in card.text
    assert "some test messages may also be in the training split" in card.text


def test_local_paths_stay_private(tmp_path):
    """Only the last component of a path is shown; data passed from Python have no name and no protocol."""
    (tmp_path / "my.csv").write_text("")
    data = str(tmp_path / "my.csv")
    recipe = {"data": data, "base": str(tmp_path), "tokenizer": "/gone/away/tokenizer"}
    text = trained(recipe=recipe, data=data)
    assert str(tmp_path) not in text and "/gone/away" not in text and "`my.csv`" in text
    assert ModelCard(text).data.base_model is None
    assert "/gone/away" not in trained(recipe={"base": "/gone/away/base"})
    own = ModelCard(trained(data=None))
    assert own.data.datasets is None and "some test messages" not in own.text


ODD = ["<b>b</b>", "A: x|y", "`tick`", "a -->", "\\ *_& &lt;", "plain [name]"]


def test_labels_keep_their_names():
    """Markdown shows any label unchanged, and tables stay intact."""
    recipe = {"label_column": "x|y", "data": "rows|<b>.csv"}
    text = ModelCard(trained(ODD, recipe=recipe, data=recipe["data"])).text
    line = next(line for line in text.splitlines() if line.startswith("A GPT that classifies text messages"))
    shown = re.findall("<code>(.*?)</code>|`([^`]*)`", line.removesuffix(", fine-tuned with `hf_spam`."))
    assert [html.unescape(escaped) or plain for escaped, plain in shown] == ODD
    assert not re.search("[<>|`*_[]", "".join(escaped for escaped, _ in shown))
    (row,) = (line for line in text.splitlines() if line.startswith("| `label_column`"))
    assert row.count("|") == 3 and "x|y" in html.unescape(row) and "rows|<b>.csv" in html.unescape(text)
    assert "Precision, recall and F1 are unweighted means over the labels" in text


@pytest.mark.parametrize(("labels", "about_spam"), [(SPAM_LABELS, True), (["ham", "Spam"], True), (["a", "b"], False)])
def test_the_example_suits_the_labels(labels, about_spam):
    text = ModelCard(trained(labels)).text
    assert ("$1000" in text) == about_spam and ("call me back" in text) == (not about_spam)
    assert (f"F1 are for `{labels[1]}`" in text) == (labels != SPAM_LABELS)


def test_license_language_metrics_and_examples():
    """The Hub filters by them. Only what is known is claimed."""
    about = ModelCard(trained(metadata={"license": "mit", "language": None})).data
    assert (about.license, about.language) == ("mit", "en") and [one["text"][:7] for one in about.widget]
    assert about.metrics == ["accuracy", "precision", "recall", "f1", "matthews_correlation", "roc_auc"]
    assert "$1000" in about.widget[0]["text"] and "call me back" in about.widget[1]["text"]
    own = ModelCard(trained(["a", "b"], data="mine.csv", metrics={})).data
    assert own.license is own.language is own.metrics is None and len(own.widget) == 1
    for data, language in (("uci,sample", "multilingual"), ("uci,mine.csv", None), ("sample", "multilingual")):
        assert ModelCard(trained(data=data)).data.language == language
    assert ModelCard(trained(metadata={"language": ["de", "no"]})).data.language == ["de", "no"]


def test_a_copy_inherits_license_and_language(tmp_path):
    """Not its results, nor metadata that cannot be read."""
    path = tmp_path / "README.md"
    path.write_text(trained(metadata={"license": "other", "license_name": "mine", "language": ["de"]}))
    kept = {"license": "other", "license_name": "mine", "language": ["de"], "datasets": ["ucirvine/sms_spam"]}
    assert inherited(path) == kept and inherited(None) == {}
    copy = ModelCard(render_card(labels=SPAM_LABELS, base_model="alice/spam", metadata=kept))
    assert "recalibrated copy of `alice/spam`" in copy.text and copy.data.base_model == "alice/spam"
    about = copy.data
    assert (about.license, about.language, about.eval_results, about.metrics) == ("other", ["de"], None, None)
    for broken in (b"\xff---\na: [1\n---\n", b"---\n- a\n---\n", b""):
        path.write_bytes(broken)
        assert inherited(path) == {}


CERTIFICATE = {
    "data": "sample",
    "messages": 21396,
    "runtimes": [
        {"runtime": "transformers", "precision": "fp32", "version": "5.23.0", "not_answered": ["empty message"]},
        {"runtime": "ONNX Runtime", "precision": "int8", "version": "1.23.2", "not_answered": []},
    ],
    "not_run": {"Transformers.js in Node.js": "needs Node.js 20; install it"},
}
for found in CERTIFICATE["runtimes"]:
    different = ["left-padded batch"] if found["precision"] == "int8" else []
    found |= {"labels_differ": 12345, "largest_score_difference": 5.96e-8, "answered_differently": different}


def exported(format: str, folded: bool = False, source: str = "alice/spam", **facts) -> ModelCard:
    """Return the card of an export."""
    facts = {"labels": SPAM_LABELS, "positive_label": "spam", "threshold": 0.92, "max_tokens": 192, **facts}
    certificate = {**CERTIFICATE, "format": format, "folded_threshold": folded}
    return ModelCard(render_export_card(certificate, source=source, **facts), ignore_metadata_errors=False)


@pytest.mark.parametrize("format", ["gpt2", "onnx"])
def test_the_card_of_an_export(format):
    """It has the original as base model, and the whole certificate as a table."""
    card = exported(format, metadata={"license": "mit", "language": ["en"]}, calibrated=True)
    about, is_onnx = card.data.to_dict(), format == "onnx"
    assert about["library_name"] == ("transformers.js" if is_onnx else "transformers")
    assert about["base_model"] == "alice/spam" and ("onnx" in about["tags"]) == is_onnx
    assert about.get("base_model_relation") == ("quantized" if is_onnx else None)
    assert about["license"] == "mit" and about["pipeline_tag"] == "text-classification" and "model-index" not in about
    rows = [line for line in card.text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and all(row.count("|") == 7 for row in rows)
    assert "| transformers | fp32 | 5.23.0 | 12,345 | 6.0e-08 | empty message |" in rows
    assert "| ONNX Runtime | int8 | 1.23.2 | 12,345 | 6.0e-08 | - |" in rows
    assert "21,396 messages" in card.text and "Transformers.js in Node.js" in card.text and "192 tokens" in card.text
    assert re.findall("(.*) gives other scores to: (.*)", card.text) == [("ONNX Runtime (int8)", "left-padded batch.")]
    assert PLACEHOLDER in card.text and "handler.py" not in card.text
    assert "handler.py" in exported(format, handler=True).text
    assert "trust_remote_code" not in card.text


def test_the_threshold_of_an_export():
    """Programs that pick the most likely label ignore it. In the weights, it makes scores no probabilities."""
    text = exported("gpt2", calibrated=True).text
    assert "0.9200000" in text and "ignore this threshold" in text and "compare the score" in text
    assert "not calibrated" in exported("gpt2").text and "not calibrated" not in text
    folded = exported("onnx", folded=True, calibrated=True).text
    assert "ignore this threshold" not in folded and "no probabilities" in folded
    none = exported("onnx", threshold=None, positive_label=None).text
    assert "## Threshold" not in none and "Labels are" not in none


def test_exports_of_the_bundled_model_and_of_a_folder(tmp_path):
    """Neither is on the Hub, so there is no base model; the path stays private."""
    bundled = exported("onnx", source="bundled")
    assert "the bundled model" in bundled.text and not bundled.data.base_model
    assert "base_model_relation" not in bundled.data.to_dict()
    own = exported("gpt2", source=str(tmp_path), labels=ODD, positive_label=None, threshold=None)
    assert str(tmp_path) not in own.content and f"`{tmp_path.name}`" in own.text and own.data.base_model is None
    assert "spam-detection" not in own.data.tags


@pytest.mark.parametrize("format", ["gpt2", "onnx"])
def test_an_export_is_used_from_the_hub_as_its_card_says(hub, format, tmp_path, request):
    """Its files arrive, and no others in its folder; the Python code runs, and gives the scores of the original."""
    out = Path(shutil.copytree(request.getfixturevalue(f"{format}_export"), tmp_path / "out"))
    others = {"messages.csv", "onnx/notes.txt", "onnx/old/model.onnx", "other/model.onnx"}
    for name in (*others, "onnx/model.onnx_data"):  # the last one has the weights of a large model
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("more")
    names = set(files_in(out)) - others
    assert hf_spam("push", out, "alice/export").code == 0
    assert set(hub.files("alice/export")) == names | {".gitattributes"}
    assert all(hub.read("alice/export", name) == (out / name).read_bytes() for name in names if name != CARD)
    card = ModelCard(hub.read("alice/export", CARD).decode(), ignore_metadata_errors=False)
    assert card.data.license == "mit" and card.data.language[0] == "en"
    (code,) = re.findall("```python\n(.*?)```", card.text, re.DOTALL)
    assert '"alice/export"' in code
    shown: list = []
    exec(code, {"print": shown.append})
    (scores,) = SpamClassifier.from_pretrained().predict_proba([SPAM_EXAMPLE])
    if format == "gpt2":
        assert shown[0][0]["score"] == pytest.approx(scores.max(), abs=1e-5)
    else:
        assert torch.tensor(shown[0]).softmax(-1)[0].tolist() == pytest.approx(scores.tolist(), abs=1e-5)


def test_the_bundled_model_has_the_metadata_of_its_card():
    """Copies and exports of the bundled model take them from the folder, people read `model_card.md`."""
    card = (Path(__file__).parents[2] / "model_card.md").read_text(encoding="utf-8")
    about = ModelCard(card, ignore_metadata_errors=False).data.to_dict()
    assert about == ModelCard((BUNDLED / "README.md").read_text(encoding="utf-8")).data.to_dict()
    assert about["license"] == "mit" and "base_model" not in about and about["language"][0] == "en"
    assert all(isinstance(code, str) and len(code) == 2 for code in about["language"]), "Norwegian is not False"
