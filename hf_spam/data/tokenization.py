"""Text to token ids: GPT-2's tokenizer, or a byte-level BPE learned on the training messages."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..conversion.loading import load_config, named_model
from ..text import first_line

END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token: begins, ends and pads


def load_tokenizer(source: str | os.PathLike, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub repository or a local folder, with a pad token and padding on the right.

    A folder that holds only GPT-2's `vocab.json` and `merges.txt` is read too.

    Raises:
        ValueError: nothing there that is a tokenizer, or one that does not fit the SpamGPT beside it; the message says
            what was looked for.
    """
    source = named_model(source)
    folder = Path(source)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file() and not (folder / "tokenizer_config.json").is_file():
        tokenizer = GPT2Tokenizer(vocab=str(vocab), merges=str(merges))
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
            reads = bool(tokenizer("a")["input_ids"])
        except BaseException as error:  # what a stranger wrote makes the tokenizers raise anything, and Rust panic
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            where = "the folder" if folder.is_dir() else "a local folder or a Hub repository named"
            raise ValueError(
                f"No tokenizer in {where} {str(source)!r} (tokenizer.json, or vocab.json and merges.txt): save one "
                f"there, or name one with --tokenizer of train or import-weights. ({first_line(error)})"
            ) from error
        if not reads:
            raise ValueError(f"The tokenizer in {str(source)!r} knows no letters.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or END_OF_TEXT
    tokenizer.padding_side = "right"
    try:
        vocab_size = load_config(source, revision=revision).vocab_size
    except (OSError, ValueError):  # a tokenizer on its own, or that of another model
        return tokenizer
    if (highest := max(tokenizer.get_vocab().values())) >= vocab_size:
        raise ValueError(
            f"The tokenizer in {str(source)!r} is not the model's: it has an id {highest}, but the vocabulary of the "
            f"model only {vocab_size} entries."
        )
    return tokenizer


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
