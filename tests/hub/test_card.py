"""The card says what the run was, and its numbers are those of the run."""

import html
import re
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard

from hf_spam import RECIPES, SpamGPTConfig, SpamGPTForSequenceClassification
from hf_spam.data.sources import OWN_DATA
from hf_spam.hub.card import CARD_METRICS, PLACEHOLDER, render_card
from hf_spam.training.loop import Run
from hf_spam.training.run import History

VALUES = dict(zip(CARD_METRICS, (0.91, 0.92, 0.93, 0.94, 0.85, 0.96, 0.0123456789), strict=True)) | {"unshown": 0.5}


@pytest.fixture
def run():
    """Makes a run with a model of which 18 parameters, those of its head, were trained."""
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    config = SpamGPTConfig(vocab_size=300, n_embd=8, n_layer=1, n_head=2, n_positions=16, **ids)
    model = SpamGPTForSequenceClassification(config)
    metrics = {"train": {**VALUES, "f1": 0.99}, "validation": {**VALUES, "f1": 0.95}, "test": VALUES}

    def make(metrics=metrics, **settings) -> Run:
        history = History(examples_seen=12_345, seconds=67.8)
        return Run(replace(RECIPES["book"], **settings), model, None, history, metrics, 18)

    return make


def test_numbers_are_those_of_the_run(run):
    """`model-index`, which the Hub reads, has the test split's to the last digit; the table has every split."""
    card = ModelCard(render_card(run()), ignore_metadata_errors=False)
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        name: VALUES[name] for name in CARD_METRICS
    }
    assert {result.dataset_split for result in results.values()} == {"test"}
    rows = {
        line.split("|")[1].strip(): line for line in card.text.splitlines() if line.count("|") == len(CARD_METRICS) + 2
    }
    assert "0.9900" in rows["train"] and "0.9500" in rows["validation"] and "0.9400" in rows["test"]
    assert "18 of them trained" in card.text and "12,345 examples in 68 s" in card.text


def test_a_checkpoint_shows_its_validation_split(run):
    """What has not been measured is not shown, nor claimed."""
    card = ModelCard(render_card(run({"validation": {**VALUES, "roc_auc": None}})))
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    assert "roc_auc" not in {result.metric_type for result in card.data.eval_results}
    assert "| - |" in card.text and "plot" not in card.text
    assert ModelCard(render_card(run({}))).data.eval_results is None


def test_the_baseline_stands_below_the_model(run):
    """On each split that it was measured on, with the winner named, be it which it may."""
    made = run()
    made.baseline = {"validation": {**VALUES, "f1": 0.9512}, "test": {**VALUES, "f1": 0.9301, "mcc": None}}
    card = ModelCard(render_card(made))
    rows = [line.split("|")[1].strip() for line in card.text.splitlines() if line.count("|") == len(CARD_METRICS) + 2]
    assert rows[2:] == ["train", "validation", "validation, baseline", "test", "test, baseline"]
    assert "On validation, the baseline is ahead of the model, F1 0.9512 against 0.9500." in card.text
    assert "On test, the model is ahead of the baseline, F1 0.9400 against 0.9301." in card.text
    assert {result.metric_value for result in card.data.eval_results if result.metric_type == "f1"} == {0.94}
    assert "baseline" not in render_card(run())


def test_the_book_s_run(run):
    """Base model, data set and its licence, settings, versions, use."""
    card = ModelCard(render_card(run(), plots=["loss", "accuracy"]))
    assert card.data.base_model == "openai-community/gpt2" and card.data.datasets == "ucirvine/sms_spam"
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-classification"
    assert {result.dataset_type for result in card.data.eval_results} == {"ucirvine/sms_spam"}
    for words in ("CC BY 4.0", "`openai-community/gpt2`", "| `learning_rate` | 5e-05 |", "transformers 5", "hf-spam 0"):
        assert words in card.text
    assert f'pipeline("text-classification", model="{PLACEHOLDER}", trust_remote_code=True)' in card.text
    assert "![Loss](loss-plot.png)" in card.text and "![Accuracy](accuracy-plot.png)" in card.text
    assert "may stand in the training split word for word" in card.text


def test_what_is_nobodys_business_stays_out(run, tmp_path):
    """Of a path the name; of data that were handed over no name, no protocol."""
    (tmp_path / "my.csv").write_text("")
    text = render_card(run(data=str(tmp_path / "my.csv"), base=str(tmp_path), tokenizer="/gone/away/tokenizer"))
    assert str(tmp_path) not in text and "/gone/away" not in text and "`my.csv`" in text
    assert ModelCard(text).data.base_model is None
    assert "/gone/away" not in render_card(run(base="/gone/away/base"))
    own = ModelCard(render_card(run(data=OWN_DATA)))
    assert own.data.datasets is None and "word for word" not in own.text


ODD = ["<b>b</b>", "A: x|y", "`tick`", "a -->", "\\ *_& &lt;", "plain [name]"]


def test_labels_keep_their_names(run):
    """As they are in Markdown and in its tables, whatever is in them; and what is asked in the example suits any."""
    made = run(label_column="x|y", data="rows|<b>.csv")
    made.model.config.id2label = dict(enumerate(ODD))
    text = ModelCard(render_card(made)).text
    line = next(line for line in text.splitlines() if line.startswith("A GPT that labels text messages"))
    shown = re.findall("<code>(.*?)</code>|`([^`]*)`", line)
    assert [html.unescape(escaped) or plain for escaped, plain in shown] == ODD
    assert not re.search("[<>|`*_[]", "".join(escaped for escaped, _ in shown))
    (row,) = (line for line in text.splitlines() if line.startswith("| `label_column`"))
    assert row.count("|") == 3 and "x|y" in html.unescape(row) and "rows|<b>.csv" in html.unescape(text)
    assert "call me back" in text and "$1000" not in text
    made.model.config.id2label = {0: "ham", 1: "Spam"}
    assert "$1000" in render_card(made) and "$1000" in render_card(run())
