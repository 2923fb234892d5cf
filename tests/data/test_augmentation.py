"""Augmentation changes case, digits and segmentation at random; a seed always gives the same result."""

import copy
import random
import re

import pytest
from small_data import MESSAGES
from tokenizers import normalizers

from hf_spam import load_sms_spam
from hf_spam.conversion.loading import load_tokenizer
from hf_spam.data.augmentation import Augmentation, BPEDropout
from hf_spam.data.tokenization import encode, normalizer, train_tokenizer

TEXTS = list(load_sms_spam(MESSAGES)["train"]["text"])
TOKENIZER = train_tokenizer(TEXTS, 500)
NONE = {"case": 0.0, "digits": 0.0, "bpe_dropout": 0.0}


def augmented(augmentation: Augmentation, text: str, seed: object) -> str:
    return TOKENIZER.decode(augmentation.encode(text, str(seed), 10**6), skip_special_tokens=True)


def test_no_augmentation_changes_nothing():
    augmentation = Augmentation(TOKENIZER, **NONE)
    assert not augmentation
    assert [augmentation.encode(text, "s", 30) for text in TEXTS[:50]] == encode(TOKENIZER, TEXTS[:50], 30)


def test_a_text_is_normalized_once():
    """A second pass of this normalizer would add another mark."""
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("_")
    augmentation = Augmentation(tokenizer, **NONE | {"digits": 0.5})
    assert augmentation.encode("hello friend", "1", 20) == encode(tokenizer, ["hello friend"], 20)[0]


@pytest.mark.parametrize(
    ("setting", "text"), [("case", "Call 0808 NOW or Else"), ("digits", "Ring 07700 900123 b4 5pm")]
)
def test_half_of_the_messages_change_their_case_or_digits(setting, text):
    """Lower, upper and sentence case occur 3 : 1 : 1, and digits stay digits."""
    augmentation = Augmentation(TOKENIZER, **NONE | {setting: 0.5})
    seen = [augmented(augmentation, text, seed) for seed in range(400)]
    assert seen.count(text) / 400 == pytest.approx(0.5, abs=0.1)
    if setting == "case":
        assert set(seen) == {text, text.lower(), text.upper(), text.capitalize()}
        for form, share in ((text.lower(), 0.3), (text.upper(), 0.1), (text.capitalize(), 0.1)):
            assert seen.count(form) / 400 == pytest.approx(share, abs=0.07)
    else:
        assert {re.sub("[0-9]", "#", message) for message in seen} == {re.sub("[0-9]", "#", text)}
        assert len(set(seen)) > 150


def test_ids_depend_on_text_and_seed_only():
    """Another order and another instance give the same ids."""
    everything = {"case": 0.3, "digits": 0.5, "bpe_dropout": 0.1}
    order = list(range(50))
    first = Augmentation(TOKENIZER, **everything)
    ids = {i: first.encode(TEXTS[i], f"7 {i}", 40) for i in order}
    random.Random(0).shuffle(order)
    second = Augmentation(TOKENIZER, **everything)
    assert {i: second.encode(TEXTS[i], f"7 {i}", 40) for i in order} == ids
    assert {i: second.encode(TEXTS[i], f"8 {i}", 40) for i in order} != ids
    assert max(map(len, ids.values())) <= 40
    assert {message[-1] for message in ids.values()} == {TOKENIZER.eos_token_id}


def test_bpe_dropout_of_zero_matches_the_library(gpt2_tokenizer_dir):
    """Merges match the Rust implementation, for a trained vocabulary and for GPT-2's."""
    for tokenizer in (TOKENIZER, load_tokenizer(gpt2_tokenizer_dir)):
        plain = BPEDropout(tokenizer, 0.0)
        texts = [normalizer().normalize_str(text) for text in TEXTS[:200]]
        expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert [plain.encode(text, random.random, 10**6) for text in texts] == expected


def test_bpe_dropout_spells_the_same_text_in_many_ways():
    dropout = BPEDropout(TOKENIZER, 0.3)
    seen = {tuple(dropout.encode(TEXTS[0], random.Random(seed).random, 10**6)) for seed in range(20)}
    assert len(seen) > 10
    assert {TOKENIZER.decode(ids) for ids in seen} == {TEXTS[0]}
    everything = BPEDropout(TOKENIZER, 1 - 1e-12).encode(TEXTS[0], random.random, 10**6)
    assert len(everything) == len(TEXTS[0].encode()), "with every merge skipped only bytes are left"


def test_bpe_dropout_skips_as_many_merges_as_the_library():
    library = train_tokenizer(TEXTS, 500)
    library.backend_tokenizer.model.dropout = 0.1
    theirs = sum(len(ids) for ids in library(TEXTS, add_special_tokens=False)["input_ids"])
    ours = BPEDropout(TOKENIZER, 0.1)
    chance = random.Random(0).random
    assert sum(len(ours.encode(text, chance, 10**6)) for text in TEXTS) == pytest.approx(theirs, rel=0.05)
