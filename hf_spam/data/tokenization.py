"""Encode texts as token ids, and train a byte-level BPE tokenizer on messages."""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token, also used for padding


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016, with GPT-2's bytes and word pattern).

    The vocabulary always contains the 256 bytes, so every text in any language can be encoded. The same texts in the
    same order give the same tokenizer.

    Args:
        texts: The training messages, not those of validation and test.
        vocab_size: The size of the vocabulary, at least 257 (the bytes and `<|endoftext|>`). Few texts may give a
            smaller one.

    Raises:
        ValueError: `vocab_size` is below 257.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size must be at least 257 (256 bytes and {END_OF_TEXT}), got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((replace_lone_surrogates(text) for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def replace_lone_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, with U+FFFD, and join surrogate pairs.

    Raises:
        TypeError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"A message must be a string, got {type(text).__name__}: {text!r}.")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Return the token ids of each text, cut to the first `max_length`.

    Raises:
        TypeError: A text is not a string.
    """
    if not texts:
        return []
    clean = [replace_lone_surrogates(text) for text in texts]
    if not tokenizer.is_fast:
        return tokenizer(clean, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    # Calling the tokenizer would take nearly twice as long, because it also computes offsets.
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length)
    encodings = backend.encode_batch_fast(clean)
    backend.no_truncation()  # or it would be saved with the tokenizer
    return [encoding.ids for encoding in encodings]
