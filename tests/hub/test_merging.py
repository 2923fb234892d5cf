"""Merging cards keeps what people wrote on the Hub, word for word, and replaces the generated part."""

import pytest
from huggingface_hub import RepoCard
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_spam.hub.merging import END, START, merge_card

OURS = "---\nlicense: cc-by-4.0\ntags:\n- sms\n- spam\n---\n\n# Title\n\nNew words.\n"
SECTION = f"{START}\n<!-- hf_spam: keys license, tags -->\n\n# Title\n\nNew words.\n\n{END}"
HEAD = "---\nlicense: cc-by-4.0\ntags:\n- sms\n- spam\n"
ALONE = f"{HEAD}---\n\n{SECTION}\n"
OLD = f"{START}\n<!-- hf_spam: keys license, base_model -->\n\nOld words.\n\n{END}"


def metadata(card: str) -> dict:
    return RepoCard(card).data.to_dict()


def test_a_first_card():
    assert merge_card(OURS, None) == merge_card(OURS, "") == ALONE


def test_our_own_card_is_replaced():
    old = merge_card("---\nlicense: mit\n---\nOld words, and more of them.\n", None)
    assert merge_card(OURS, old) == ALONE
    assert merge_card(ALONE, None) == merge_card(ALONE, old) == ALONE  # our card may already contain the markers
    edited = ALONE.replace(END, f"{END}\nMine.")  # before the first push
    assert merge_card(edited, None) == merge_card(edited, edited) == edited


@pytest.mark.parametrize("before", ["", "Mine.", "\n\n  Mine\t\n", "é\r\n\r\n", "---\n"])
@pytest.mark.parametrize("after", ["", "\n", " mine", "\n\nMine.\r\n \n", "\n---\n"])
def test_their_words_stay_byte_for_byte(before, after):
    theirs = f"---\nlicense: mit\n---\n{before}{OLD}{after}"
    assert merge_card(OURS, theirs) == f"{HEAD}---\n{before}{SECTION}{after}"


def test_their_keys_keep_their_values_and_ours_are_replaced():
    """A license that someone changed is replaced, because our card has one."""
    theirs = "---\nlanguage: ['en',   \"de\"]\nlicense: mit\nextra:\n  - a # b\n  -  c\n---\nMine.\n"
    kept = "language:\n- en\n- de\nextra:\n- a\n- c\n"
    assert merge_card(OURS, theirs) == f"{HEAD}{kept}---\nMine.\n\n{SECTION}\n"


def test_keys_that_we_no_longer_write_are_removed():
    """Otherwise a model now trained from scratch would keep the base model of the earlier one."""
    theirs = f"---\nbase_model: gpt2\nlicense: mit\nmine: 1\n---\n{OLD}\n"
    assert metadata(merge_card(OURS, theirs)) == {"license": "cc-by-4.0", "tags": ["sms", "spam"], "mine": 1}
    # The same key, but written by a person: our card never had it.
    theirs = f"---\nbase_model: gpt2\n---\n{SECTION}\n"
    assert metadata(merge_card(OURS, theirs))["base_model"] == "gpt2"


def test_a_card_without_metadata_or_without_a_section():
    """Their text comes first."""
    assert merge_card(OURS, "Mine.") == f"{HEAD}---\nMine.\n\n{SECTION}\n"
    assert merge_card(OURS, "Mine.\n") == f"{HEAD}---\nMine.\n\n{SECTION}\n"
    assert merge_card(OURS, "---\na: 1\n---") == f"{HEAD}a: 1\n---\n\n{SECTION}\n"
    assert merge_card(OURS, "\ufeff---\na: 1\n---\nMine.\n") == f"{HEAD}a: 1\n---\nMine.\n\n{SECTION}\n"


@pytest.mark.parametrize(
    "broken", ["a: [1", "\tx: 1", "just words", "- a", "a: 1\nb", "a: 2020-99-99", "? {a: 1}\n: 2"]
)
def test_broken_metadata_become_text(broken):
    """The Hub rejects cards with invalid metadata; if they stayed, no push could succeed again."""
    theirs = f"---\n{broken}\n---\nMine.\n"
    assert merge_card(OURS, theirs) == f"{HEAD}---\n{theirs}\n{SECTION}\n"
    theirs = f"---\n{broken}\n---\nMine.\n{OLD} mine\n"
    assert merge_card(OURS, theirs) == f"{HEAD}---\n{theirs.replace(OLD, SECTION)}"


def test_windows_line_endings():
    theirs = f"---\r\nlicense: mit\r\nmine: 1\r\n---\r\n\r\nMine.\r\n{OLD}\r\nMine.\r\n".replace("\nOld", "\r\nOld")
    assert merge_card(OURS, theirs) == f"{HEAD}mine: 1\n---\n\r\nMine.\r\n{SECTION}\r\nMine.\r\n"


def test_an_unpaired_marker():
    """No text next to it is lost."""
    for theirs in (f"a {START} b", f"a {END} b", f"{END} a {START} b"):
        assert merge_card(OURS, theirs) == f"{HEAD}---\n{theirs}\n\n{SECTION}\n"
    assert merge_card(OURS, f"a {START} b {OLD} c {START}") == f"{HEAD}---\na {START} b {SECTION} c {START}"


PIECES = ["---\n", "---\r\n", "a: 1\n", "license: x\n", "tags:\n- x\n", "  b: 2\n", "# c\n", "\n", "\r\n", "{", "- 1\n"]
PIECES += ["x: &y\n", "z: *y\n", "d: |+\n  e\n\n", "n: .nan\n", "words ", "\ufeff", "\u2028", "\x85", "\t", "\x00"]
PIECES += ["null\n", START, END, OLD, SECTION]
heads = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
cards = st.one_of(heads, st.builds("---\n{}\n---\n{}".format, heads, heads))


@settings(max_examples=150, database=None)
@given(cards)
def test_merging_again_changes_nothing(theirs):
    """Otherwise every push would make a commit, and the card would grow."""
    merged = merge_card(OURS, theirs)
    assert merge_card(OURS, merged) == merged
    assert metadata(merged) | metadata(OURS) == metadata(merged) or ".nan" in merged
    assert merged.count(SECTION) >= 1
