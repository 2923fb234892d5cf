"""Text to token ids: GPT-2's tokenizer, or a byte-level BPE learned on the training messages."""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token: begins, ends and pads


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE (Sennrich et al. 2016; GPT-2's bytes and word pattern) on `texts`.

    Every text can be encoded, whatever its language: the 256 bytes are always in the vocabulary. The same texts in
    the same order give the same tokenizer.

    Args:
        texts: the training messages, and only those.
        vocab_size: at least 257, the bytes and `<|endoftext|>`. Fewer entries result where the texts hold no more.

    Raises:
        ValueError: `vocab_size` below 257.
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
    """`text` with halves of UTF-16 pairs, which no encoder accepts, replaced by U+FFFD (pairs are joined).

    Raises:
        TypeError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"A message must be a string, got {type(text).__name__}: {text!r}.")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """The token ids of each text, cut to the first `max_length`.

    Raises:
        TypeError: a text is not a string.
    """
    if not texts:
        return []
    clean = [replace_lone_surrogates(text) for text in texts]
    if not tokenizer.is_fast:
        return tokenizer(clean, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    # Not through the call, which computes offsets into the text too, and takes nearly twice as long.
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length)
    encodings = backend.encode_batch_fast(clean)
    backend.no_truncation()  # which would be saved with the tokenizer
    return [encoding.ids for encoding in encodings]
