"""Vectors of n-grams change how token embeddings are learned, and nothing about the model that is saved."""

import copy

import torch
from small_data import MESSAGES
from small_runs import result
from tiny_models import build
from torch.nn.utils import parametrize

from hf_spam import SpamClassifier, finetune
from hf_spam.data.sources import read_messages
from hf_spam.data.tokenization import train_tokenizer
from hf_spam.training.subwords import NGramVectors, add_ngrams, without_ngrams

TOKENIZER = train_tokenizer(read_messages(MESSAGES)["text"][:100], 400)
TEXTS = ["Free entry! Txt WIN to 10010", "see you at home", ""]


def composed(**settings):
    model = build(vocab_size=400, **settings)
    add_ngrams(model.gpt, TOKENIZER)
    return model


def test_answers_stay_the_same_when_vectors_are_added_and_when_they_are_folded():
    plain, model = build(vocab_size=400), composed()
    model.load_state_dict(
        {
            name.replace("tok_emb.weight", "tok_emb.parametrizations.weight.original"): value
            for name, value in plain.state_dict().items()
        },
        strict=False,
    )
    before = SpamClassifier(plain, TOKENIZER).logits(TEXTS)
    torch.testing.assert_close(SpamClassifier(model, TOKENIZER).logits(TEXTS), before, rtol=0, atol=0)
    with torch.no_grad():
        for weights in model.gpt.tok_emb.parametrizations.weight.parameters():
            weights.normal_()
    learned = SpamClassifier(model, TOKENIZER).logits(TEXTS)
    assert not torch.allclose(learned, before, atol=1e-3)
    folded = without_ngrams(model)
    torch.testing.assert_close(SpamClassifier(folded, TOKENIZER).logits(TEXTS), learned, rtol=0, atol=0)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    assert parametrize.is_parametrized(model.gpt.tok_emb)  # which goes on learning
    assert without_ngrams(plain) is plain


def test_tokens_that_are_spelled_alike_share_vectors():
    """Here <w, wi, in, <wi, win and <win; no other n-gram of 2 to 5 characters is in two of these tokens."""
    part = NGramVectors(["win", "wins", "cat", ""], 3)
    assert part.vectors.weight.shape == (6, 3)
    embeddings = torch.randn(4, 3)
    torch.testing.assert_close(part(embeddings), embeddings, rtol=0, atol=0)
    torch.nn.init.normal_(part.vectors.weight)
    shared = part.vectors.weight.sum(0) / 6**0.5
    torch.testing.assert_close(part(embeddings)[:2], embeddings[:2] + shared)
    torch.testing.assert_close(part(embeddings)[2:], embeddings[2:], rtol=0, atol=0)


def test_no_n_gram_may_be_shared_and_ids_may_have_no_token():
    part = NGramVectors(["win", "cat", None, None], 3)
    assert part.vectors.weight.numel() == 0
    torch.testing.assert_close(part(torch.ones(4, 3)), torch.ones(4, 3))


def test_a_run_returns_and_saves_a_plain_model(data, tmp_path):
    """The vectors are learned in pretraining and in fine-tuning."""
    settings = {"subword_embeddings": True, "pretraining_steps": 2, "max_steps": 4}
    run = finetune("pocket", data=data, output_dir=tmp_path / "run", **settings)
    assert not any(map(parametrize.is_parametrized, run.model.modules()))
    assert run.trained_parameters == run.model.num_parameters()
    saved = SpamClassifier.from_pretrained(tmp_path / "run")
    expected = SpamClassifier(copy.deepcopy(run.model), run.tokenizer)
    torch.testing.assert_close(saved.logits(TEXTS), expected.logits(TEXTS), rtol=0, atol=0)
    plain = finetune("pocket", data=data, output_dir=tmp_path / "plain", **{**settings, "subword_embeddings": False})
    assert not torch.allclose(plain.model.gpt.tok_emb.weight, run.model.gpt.tok_emb.weight, atol=1e-4)
    assert result(tmp_path / "run") != result(tmp_path / "plain")
