"""Train the model that comes with the package: recipe `inbox` on the SMS Spam Collection, the sample and public sets.

    python scripts/train_bundled.py --uci SMSSpamCollection PHILIPPINES SMISHING THAI MENDELEY

The last four are files of the public sets that model_card.md names, in its order. Nine tenths of the messages are
trained on; the temperature and the threshold are fitted to the rest, and `measure_bundled.py` measures on it. It takes
about 35 minutes on one core with AVX-512. The same versions on the same kind of processor give the same file.
`hf-spam crossval --recipe inbox --by-source` measures the recipe on sources that a model has not seen.
"""

import json
import shutil
import tempfile
from pathlib import Path

import click
import torch
from bundled_graph import write_graph
from datasets import Dataset, DatasetDict

from hf_spam import entry, finetune
from hf_spam.conversion.loading import BUNDLED, save_classifier
from hf_spam.data.sources import read_messages
from hf_spam.data.splits import fingerprints, grouped_folds
from hf_spam.evaluation.eval_data import BUNDLED_HELD_OUT, BUNDLED_SOURCES

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MARKETING = ("ads", "marketing")  # categories of firms that write to their customers: neither spam nor ham


@click.command()
@click.option("--uci", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--output-dir", default=BUNDLED, type=click.Path(path_type=Path), show_default=True, help="Directory.")
@click.argument("public", nargs=-1, type=click.Path(exists=True))
def main(uci: str, output_dir: Path, public: tuple[str, ...]) -> None:
    """Train the bundled model; PUBLIC are the files of the public sets."""
    torch.set_num_threads(1)  # another number of threads changes the last digits
    sources = [uci, "sample", *public]
    splits = training_splits(sources)
    run = finetune("inbox", data=splits)
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_classifier(run.model, run.tokenizer, Path(folder))
        for name in FILES:
            shutil.copyfile(Path(folder, name), output_dir / name)
    write_graph(output_dir)
    names = {"uci": uci, "sample": "sample", **{Path(source).name: source for source in public}}
    seen = {name: fingerprints(DatasetDict(train=whole(source)))["train"] for name, source in names.items()}
    (output_dir / BUNDLED_SOURCES).write_text(json.dumps(seen, indent=2) + "\n")
    held_out = set(splits["validation"]["text"])
    rows = {
        name: [row for row, text in enumerate(whole(source)["text"]) if text in held_out]
        for name, source in (("sample", "sample"), ("uci", uci))  # the sources that anyone can read
    }
    (output_dir / BUNDLED_HELD_OUT).write_text(json.dumps(rows, separators=(",", ":")) + "\n")
    for line in run.calibration.summary():
        click.echo(line)
    click.echo(f"Trained in {run.history.seconds:.0f} s. The model is in {output_dir}")


def training_splits(sources: list[str]) -> DatasetDict:
    """Return the messages of sources without marketing: nine tenths as `train`, one as `validation`."""
    messages = read_messages(sources).filter(lambda name: name not in MARKETING, input_columns="category")
    train, validation = next(grouped_folds(messages, 10))
    return DatasetDict(train=train, validation=validation)


def whole(source: str) -> Dataset:
    """Return all messages of a source, as an evaluation reads them."""
    return read_messages(source, allow_single_label=True)


if __name__ == "__main__":
    entry.run(main, "train_bundled.py")
