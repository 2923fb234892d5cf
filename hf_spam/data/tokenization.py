"""Encode texts as token ids, and train a byte-level BPE tokenizer on messages."""

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..text import replace_lone_surrogates

END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token
PAD = "<|pad|>"

# Characters that are not drawn: soft hyphens, zero-width characters, controls of writing direction, fillers, variation
# selectors and tags (Unicode's Default_Ignorable_Code_Point).
INVISIBLE = (
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
# Cyrillic and Greek letters drawn like a Latin one (from Unicode's confusables.txt, UTS #39).
LOOK_ALIKES = {
    "a": "аα", "b": "Ьβ", "c": "с", "d": "ԁ", "e": "еε", "h": "һ", "i": "іι", "j": "јϳ", "k": "кκ", "l": "ӏ",
    "n": "пη", "o": "оο", "p": "рρ", "q": "ԛ", "r": "г", "s": "ѕ", "t": "тτ", "u": "υ", "v": "νѵ", "w": "ԝω",
    "x": "хχ", "y": "уγ", "A": "АΑ", "B": "ВΒ", "C": "С", "E": "ЕΕ", "H": "НΗ", "I": "ІΙ", "J": "Ј", "K": "КΚ",
    "M": "МΜ", "N": "Ν", "O": "ОΟ", "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "X": "ХΧ", "Y": "УΥ", "Z": "Ζ",
}  # fmt: skip
GREEK_OR_CYRILLIC = "[\u0370-\u052f]"
MAX_LOOK_ALIKES = 8  # look-alikes in a row at the end of a word, since a lookbehind must have a fixed length


def normalizer(*, lowercase: bool = False) -> normalizers.Normalizer:
    """Return a normalizer that gives an obfuscated text and the plain one the same tokens.

    It removes invisible characters, applies NFKC (full-width, bold and circled letters become plain ones), and replaces
    Greek and Cyrillic letters by the Latin ones that they look like, in words that mix them with Latin letters. Words
    wholly in Greek or Cyrillic stay as they are. With `lowercase`, it then lowercases the text. Every runtime
    that reads `tokenizer.json` applies these steps.
    """
    before = "|".join(f"(?<=[A-Za-z]{GREEK_OR_CYRILLIC * n})" for n in range(MAX_LOOK_ALIKES))
    in_mixed_word = f"(?:(?={GREEK_OR_CYRILLIC}*[A-Za-z])|{before})"
    fold = [
        # An alternative for each letter is searched six times as fast as a character class.
        normalizers.Replace(Regex("|".join(f"{letter}{in_mixed_word}" for letter in letters)), latin)
        for latin, letters in LOOK_ALIKES.items()
    ]
    # Some runtimes choose between the two lowercase forms of a Greek Σ by its place in the word.
    lower = [normalizers.Lowercase(), normalizers.Replace("ς", "σ")] if lowercase else []
    return normalizers.Sequence([normalizers.Replace(Regex(INVISIBLE), ""), normalizers.NFKC(), *fold, *lower])


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, lowercase: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016, with GPT-2's bytes and word pattern).

    The vocabulary always contains the 256 bytes, so every text in any language can be encoded. Every text ends with
    `<|endoftext|>`, also when it is cut, and the classifier reads this token (GPT-1's "extract" token, Radford et al.
    2018). In a GPT of one block, the attention query depends only on the token that is read and on its position, so
    with a fixed token it is nearly the same for every message. The same texts in the same order give the same
    tokenizer.

    Args:
        texts: The training messages, not those of validation and test.
        vocab_size: The size of the vocabulary, at least 258 (the bytes, `<|endoftext|>` and `<|pad|>`). Few texts may
            give a smaller one.
        lowercase: Whether the tokenizer lowercases texts.

    Raises:
        ValueError: `vocab_size` is below 258.
    """
    if vocab_size < 258:
        raise ValueError(f"vocab_size must be at least 258 (256 bytes, {END_OF_TEXT} and {PAD}), got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT, PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((replace_lone_surrogates(text) for text in texts), trainer)
    end = (END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END_OF_TEXT}", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Return the token ids of each text, cut to `max_length` as the tokenizer does."""
    if not texts:
        return []
    clean = [replace_lone_surrogates(text) for text in texts]
    if not tokenizer.is_fast:
        return tokenizer(clean, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    # Calling the tokenizer would take nearly twice as long, because it also computes offsets.
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = tokenizer.split_special_tokens  # lost when a tokenizer is sent to a process
    backend.no_padding()
    backend.enable_truncation(max_length)
    encodings = backend.encode_batch_fast(clean)
    backend.no_truncation()  # or it would be saved with the tokenizer
    return [encoding.ids for encoding in encodings]
