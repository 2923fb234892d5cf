"""Any text gets ids, always the same ones, from tokenizers that save and load like any other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import MESSAGES
from transformers import AutoTokenizer

from hf_spam import load_sms_spam
from hf_spam.conversion.loading import load_tokenizer
from hf_spam.data.tokenization import (
    END_OF_TEXT,
    LOOK_ALIKES,
    encode,
    normalizer,
    replace_lone_surrogates,
    train_tokenizer,
)

TEXTS = list(load_sms_spam(MESSAGES)["train"]["text"])
TOKENIZER = train_tokenizer(TEXTS, 500)
NORMALIZE = normalizer().normalize_str
WORDS = st.from_regex(r"[A-Za-z]{1,12}", fullmatch=True)
HIDDEN = "\u200b\u200c\u200d\u2060\u202a\u202e\u00ad\ufeff\u034f"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.integers(1, 20))
def test_encoding_matches_the_tokenizers_own_call_and_decodes_to_the_text(texts, max_length):
    """No language has unknown tokens, and truncation matches without being saved with the tokenizer."""
    expected = TOKENIZER(texts, truncation=True, max_length=max_length)["input_ids"]
    TOKENIZER(texts)
    before = TOKENIZER.backend_tokenizer.to_str()
    assert encode(TOKENIZER, texts, max_length) == expected
    assert {ids[-1] for ids in expected} == {TOKENIZER.eos_token_id}, "also of a text that is cut"
    assert TOKENIZER.backend_tokenizer.to_str() == before
    whole = encode(TOKENIZER, texts, 10**6)
    decoded = [TOKENIZER.decode(ids, skip_special_tokens=False) for ids in whole]
    assert decoded == [NORMALIZE(text) + END_OF_TEXT for text in texts]
    assert max(map(max, filter(None, whole)), default=0) < len(TOKENIZER) == 500


@given(st.lists(WORDS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_obfuscated_copies_have_the_same_ids(words, random):
    """Look-alikes (at most 8 in a row at a word's end), full-width letters and invisible characters change nothing."""
    obfuscated = []
    for word in words:
        keep = random.randrange(max(0, len(word) - 8), len(word))  # a word keeps one Latin letter, or it is not mixed
        letters = [random.choice(LOOK_ALIKES.get(c, c)) if i != keep else c for i, c in enumerate(word)]
        letters = [chr(ord(c) + 0xFEE0) if c.isascii() and random.random() < 0.3 else c for c in letters]
        obfuscated.append("".join(c + random.choice(["", "", random.choice(HIDDEN)]) for c in letters))
    assert encode(TOKENIZER, [" ".join(obfuscated)], 10**6) == encode(TOKENIZER, [" ".join(words)], 10**6)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Привет, это я", "Привет, это я"),
        ("СОР на УРОКЕ в iPhone-е", "СОР на УРОКЕ в iPhone-е"),
        ("Το ΑΦΜ και το PIN", "Το ΑΦΜ και το PIN"),
        ("𝗬𝗼𝘂𝗿 ﬁrst ①②", "Your first 12"),
        ("Crédit Ağrı straße 日本 हिन्दी", "Crédit Ağrı straße 日本 हिन्दी"),
        ("", ""),
    ],
)
def test_other_words_keep_their_letters(text, normal):
    """Words wholly in Cyrillic or Greek, and accents, are not folded."""
    assert NORMALIZE(text) == normal


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_lower_case_is_that_of_every_runtime(text):
    """Letter by letter, also a Greek Σ at the end of a word, which Python and JavaScript make a ς."""
    lowercase = normalizer(lowercase=True).normalize_str
    assert lowercase(text) == NORMALIZE(text).lower().replace("ς", "σ")
    assert lowercase("ΟΔΟΣ, οδος, WIN a Ｐrizе") == "οδοσ, οδοσ, win a prize"


def test_capitals_have_the_ids_of_small_letters():
    tokenizer = train_tokenizer(TEXTS, 500, lowercase=True)
    texts = TEXTS[:50]
    assert encode(tokenizer, [text.upper() for text in texts], 30) == encode(tokenizer, texts, 30)
    assert encode(TOKENIZER, ["WIN"], 30) != encode(TOKENIZER, ["win"], 30)


def test_training_is_repeatable_and_saved_for_autotokenizer(tmp_path):
    again = train_tokenizer(TEXTS, 500)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    again.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS[:20])["input_ids"] == encode(TOKENIZER, TEXTS[:20], 10**6)
    assert set(loaded("a b")) == {"input_ids", "attention_mask"}
    assert (loaded.eos_token, loaded.pad_token) == ("<|endoftext|>", "<|pad|>")
    with pytest.raises(ValueError, match="at least 258"):
        train_tokenizer(TEXTS, 256)


def test_gpt2s_files_give_gpt2s_ids(gpt2_tokenizer_dir):
    """The ids are GPT-2's published ones."""
    tokenizer = load_tokenizer(gpt2_tokenizer_dir)
    assert len(tokenizer) == 50257 and tokenizer.pad_token_id == 50256
    ids = [[6109, 3626, 6100, 345], [15496, 995, 32485]]
    assert encode(tokenizer, ["Every effort moves you", "Hello world 🙂"], 10) == ids


def test_lone_surrogates_are_replaced_and_pairs_joined():
    assert replace_lone_surrogates("a\ud800b\udc00") == "a\ufffdb\ufffd"
    assert replace_lone_surrogates("\ud83d\ude42") == "🙂"
    assert encode(TOKENIZER, ["\udfff"], 10) == encode(TOKENIZER, ["\ufffd"], 10)
