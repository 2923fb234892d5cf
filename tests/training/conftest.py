"""Messages and a base model shared by the training tests."""

from pathlib import Path

import pytest
import torch
from book_oracle import GPTModel, make_loaders
from datasets import DatasetDict
from small_runs import WITH_CHECKPOINTS, first_messages
from tokenizers import processors
from torch.utils.data import DataLoader

from hf_spam import finetune, import_weights
from hf_spam.data.tokenization import encode, train_tokenizer


@pytest.fixture(scope="session")
def data() -> DatasetDict:
    """Messages cut to 80 characters: the recipe book pads all of them to the longest."""
    return first_messages(train=91, validation=21, test=30).map(lambda row: {"text": row["text"][:80]})


@pytest.fixture(scope="session")
def book_tokenizer(data):
    """A small tokenizer like GPT-2's, which adds nothing to a message and pads with `<|endoftext|>`."""
    tokenizer = train_tokenizer(data["train"]["text"][:], 300)
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture(scope="session")
def book_model(book_tokenizer) -> GPTModel:
    """A small network built with the book's code, with random weights."""
    torch.manual_seed(7)
    return GPTModel(len(book_tokenizer), positions=1024, width=16, layers=3, heads=2)


@pytest.fixture(scope="session")
def base(book_model, book_tokenizer, tmp_path_factory) -> Path:
    """The same network, imported from the file that `torch.save` writes, with its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    torch.save(book_model.state_dict(), folder / "gpt.pth")
    import_weights(folder / "gpt.pth", folder / "imported", n_head=2)
    book_tokenizer.save_pretrained(folder / "imported")
    return folder / "imported"


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory) -> Path:
    """A run with checkpoints 4 and 8, started with `auto`, which starts afresh if there is no checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "out"
    finetune("pocket", data=data, output_dir=out, resume_from_checkpoint="auto", **WITH_CHECKPOINTS)
    return out


@pytest.fixture
def book_loaders(data, book_tokenizer) -> tuple[DataLoader, ...]:
    """The book's data loaders for these messages."""
    splits = [(encode(book_tokenizer, part["text"][:], 1024), part["label"][:]) for part in data.values()]
    return make_loaders(splits, book_tokenizer.pad_token_id, 8)
