"""Classifiers of other packages: they answer as in their own package, no pickle is read and no code is run."""

import re
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from command_line import hf_spam
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from small_data import MESSAGES
from small_models import CONFIGS, POSITIONS, save_small, small_tokenizer
from transformers import AutoModel, BertConfig, BertForSequenceClassification

from hf_spam.evaluation import models
from hf_spam.evaluation.metrics import Predictions
from hf_spam.evaluation.models import load_candidate

TEXTS = ["you won a free prize", "", "late", " ".join(["see me at home"] * POSITIONS), "call me later", "lunch \ud83d"]
TRAIN = ["you won a prize", "free prize now", "claim a free prize", "see you at home", "lunch is ready", "are you late"]
LABELS = ["spam", "spam", "spam", "ham", "ham", "ham"]


def answers_of(candidate, texts=TEXTS) -> Predictions:
    return candidate.predictions(texts, np.zeros(len(texts)))


def expected_scores(model, kind: str) -> np.ndarray:
    """Return the scores of the last class, one message at a time; an empty message is a single pad."""
    tokenizer, scores = small_tokenizer(kind), []
    for text in TEXTS:
        ids = tokenizer(text.replace("\ud83d", "\ufffd"), truncation=True, max_length=POSITIONS)["input_ids"] or [3]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0]
        scores.append(logits.softmax(-1)[-1].item())
    return np.array(scores)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_sequence_classifier_answers_as_alone(tmp_path, kind):
    """In batches of any length, with long messages cut to its own limit; GPT-2 here has no pad token."""
    model = save_small(tmp_path, kind)
    candidate = load_candidate(tmp_path)
    answers, expected = answers_of(candidate), expected_scores(model, kind)
    np.testing.assert_allclose(answers.scores, expected, atol=1e-6)
    assert np.ptp(expected) > 1e-4 and (answers.predicted_spam == (answers.scores > 0.5)).all()
    assert (candidate.kind, candidate.parameters) == (type(model).__name__, model.num_parameters())
    assert candidate.size == (tmp_path / "model.safetensors").stat().st_size and candidate.name == tmp_path.name


def test_the_label_map_says_which_class_is_spam(tmp_path):
    model = save_small(tmp_path, labels=("LABEL_0", "LABEL_1"))
    with pytest.raises(
        ValueError, match=r"none of its labels .*'LABEL_0', 'LABEL_1'.* --label-map, such as LABEL_1=spam"
    ):
        load_candidate(tmp_path)
    scores = answers_of(load_candidate(tmp_path, label_map="LABEL_1=spam")).scores
    np.testing.assert_allclose(scores, expected_scores(model, "bert"), atol=1e-6)
    other = answers_of(load_candidate(tmp_path, label_map="label_0=spam"))
    np.testing.assert_allclose(other.scores, 1 - scores)
    assert (other.predicted_spam == (scores < 0.5)).all()


def test_several_classes_of_spam_are_added(tmp_path):
    save_small(tmp_path, labels=("ham", "smishing", "spam"))
    alone, both = load_candidate(tmp_path), load_candidate(tmp_path, label_map="smishing=spam")
    probabilities, predicted = both.run(TEXTS, False)
    np.testing.assert_allclose(answers_of(alone).scores, probabilities[:, 2])
    np.testing.assert_allclose(answers_of(both).scores, probabilities[:, 1:].sum(1))
    assert (answers_of(both).predicted_spam == (predicted > 0)).all()


def test_a_peft_adapter_brings_its_own_head(tmp_path, monkeypatch):
    """The base is an encoder without a head, in the revision that is named, and the adapter has three classes."""
    peft = pytest.importorskip("peft")
    save_small(tmp_path / "base", auto=AutoModel)
    torch.manual_seed(1)
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    lora = peft.LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, revision="abc")
    adapted = peft.get_peft_model(base, lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    asked, local_folder = [], models.local_folder
    monkeypatch.setattr(models, "local_folder", lambda name, **which: asked.append(which) or local_folder(name))
    candidate = load_candidate(tmp_path / "adapter", label_map="LABEL_2=spam")
    np.testing.assert_allclose(answers_of(candidate).scores, expected_scores(adapted, "bert"), atol=1e-6)
    assert candidate.kind == "BertForSequenceClassification (LORA)"
    assert [which.get("revision") for which in asked] == [None, "abc", None, "abc"]


def test_the_threshold_of_an_export_is_said_to_be_ignored(tmp_path, caplog):
    """transformers does not know it, and the export is measured as transformers runs it."""
    done = hf_spam("export", "bundled", tmp_path / "out", "--format", "gpt2", "--data", MESSAGES)
    assert done.code == 0, done.err
    assert load_candidate(tmp_path / "out").threshold is None
    assert f"{tmp_path / 'out'}: its threshold is ignored, as transformers ignores it" in caplog.text


def test_a_model_is_loaded_from_the_hub(tmp_path, hub):
    from huggingface_hub import HfApi

    model = save_small(tmp_path / "model")
    (tmp_path / "model" / "model_head.pkl").write_bytes(b"not read")
    HfApi().create_repo("alice/bert")
    HfApi().upload_folder(folder_path=tmp_path / "model", repo_id="alice/bert")
    candidate = load_candidate("alice/bert")
    np.testing.assert_allclose(answers_of(candidate).scores, expected_scores(model, "bert"), atol=1e-6)
    assert candidate.name == "alice/bert" and candidate.size > 1000


@pytest.mark.parametrize("last", [LogisticRegression(), LinearSVC(), CalibratedClassifierCV(LinearSVC(), cv=2)])
def test_a_scikit_learn_pipeline(tmp_path, last):
    io = pytest.importorskip("skops.io")
    pipeline = make_pipeline(CountVectorizer(), last).fit(TRAIN, LABELS)
    io.dump(pipeline, tmp_path / "p.skops")
    candidate = load_candidate(tmp_path / "p.skops")
    answers, texts = answers_of(candidate), [*TEXTS]
    assert answers.predicted_spam.tolist() == (pipeline.predict(texts) == "spam").tolist()
    if candidate.only_ranks:
        np.testing.assert_allclose(answers.scores, 1 / (1 + np.exp(-pipeline.decision_function(texts))))
    else:
        np.testing.assert_allclose(answers.scores, pipeline.predict_proba(texts)[:, 1])
    assert candidate.only_ranks == isinstance(last, LinearSVC)


def strange(texts):
    return texts


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([FunctionTransformer(strange), CountVectorizer()], r" is not loaded, .*strange"),
        ([CountVectorizer(), RandomForestClassifier(2).fit([[0], [1]], [0, 1])], r" is not loaded, .*_tree\.Tree"),
        ([CountVectorizer(), LogisticRegression()], r": LogisticRegression is not a fitted classifier\."),
    ],
)
def test_a_pipeline_that_may_run_code_or_is_not_fitted_is_refused(tmp_path, steps, message):
    io = pytest.importorskip("skops.io")
    io.dump(make_pipeline(*steps), tmp_path / "p.skops")
    with pytest.raises(ValueError, match=rf"p\.skops{message}"):
        load_candidate(tmp_path / "p.skops")


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_pickle_is_read(tmp_path):
    """Neither a pipeline, nor the head of a SetFit model, nor the weights of a transformer."""
    bomb, went_off = Bomb(tmp_path / "went off"), tmp_path / "went off"
    joblib.dump(bomb, tmp_path / "p.joblib")
    save_small(tmp_path / "setfit", auto=AutoModel)
    (tmp_path / "setfit" / "modules.json").write_text("[]")
    joblib.dump(bomb, tmp_path / "setfit" / "model_head.pkl")
    save_small(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    joblib.dump(bomb, tmp_path / "bert" / "pytorch_model.bin")
    for name, remedy in [
        ("p.joblib", "skops.io.dump"),
        ("setfit", r"in its folder: python -c \"import joblib, skops.io; .*model_head.skops'\)\""),
        ("bert", "no model.safetensors, .* save_pretrained"),
    ]:
        with pytest.raises(ValueError, match=rf"{name}.*{remedy}"):
            load_candidate(tmp_path / name)
    assert not went_off.exists()


def test_the_advice_for_a_setfit_head_works(tmp_path, monkeypatch):
    models = pytest.importorskip("sentence_transformers.models")
    pytest.importorskip("skops")
    from sentence_transformers import SentenceTransformer

    save_small(tmp_path / "body", auto=AutoModel)
    body = models.Transformer(str(tmp_path / "body"))
    SentenceTransformer(modules=[body, models.Pooling(16)]).save(str(tmp_path / "setfit"))
    body = SentenceTransformer(str(tmp_path / "setfit"))
    head = LogisticRegression().fit(body.encode(TRAIN), LABELS)
    joblib.dump(head, tmp_path / "setfit" / "model_head.pkl")
    with pytest.raises(ValueError, match=r"model_head\.pkl is a pickle") as error:
        load_candidate(tmp_path / "setfit")
    monkeypatch.chdir(tmp_path / "setfit")
    exec(re.search('python -c "(.*)"', str(error.value))[1])
    found = answers_of(load_candidate(tmp_path / "setfit"), TRAIN).scores
    np.testing.assert_allclose(found, head.predict_proba(body.encode(TRAIN))[:, 1], atol=1e-6)


def test_a_model_that_is_no_finished_classifier_is_refused(tmp_path):
    save_small(tmp_path / "base", auto=AutoModel)
    with pytest.raises(ValueError, match=r"not a finished classifier: .*classifier\.weight"):
        load_candidate(tmp_path / "base")
    with pytest.raises(OSError, match="No model in"):
        load_candidate(tmp_path)


def test_code_runs_only_where_asked_for(tmp_path):
    """The code of the repository leaves a file behind."""
    save_small(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"bert"', '"strange"')
    names = '{"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"}'
    (tmp_path / "config.json").write_text(config.replace("{", f'{{"auto_map": {names},', 1))
    (tmp_path / "code.py").write_text(
        f"from transformers import BertConfig, BertForSequenceClassification\nopen({str(tmp_path / 'ran')!r}, 'w')\n"
        "class C(BertConfig):\n    model_type = 'strange'\n"
        "class M(BertForSequenceClassification):\n    config_class = C\n"
    )
    with pytest.raises(ValueError, match=r"Python code that comes with it, .* --trust-remote-code"):
        load_candidate(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert answers_of(load_candidate(tmp_path, trust_remote_code=True), ["late"]).scores.shape == (1,)
    assert (tmp_path / "ran").exists() and BertConfig.model_type == "bert"
