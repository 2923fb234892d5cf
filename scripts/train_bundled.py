"""Train the model that comes with the package: recipe `pocket` on the whole SMS Spam Collection.

    python scripts/train_bundled.py --data ../shared/data/SMSSpamCollection

The same versions on the same kind of processor give the same file. `measure_pocket.py` measures the recipe on messages
that a model has not seen.
"""

import json
import shutil
import tempfile
from pathlib import Path

import click
import torch
from datasets import DatasetDict

from hf_spam import entry, finetune
from hf_spam.conversion.loading import BUNDLED, save_classifier
from hf_spam.data.sources import read_messages
from hf_spam.data.splits import fingerprints
from hf_spam.evaluation.eval_data import BUNDLED_SOURCES

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--output-dir", default=BUNDLED, type=click.Path(path_type=Path), show_default=True, help="Directory.")
def main(data: str, output_dir: Path) -> None:
    """Train the bundled model."""
    torch.set_num_threads(1)  # more threads would change the last digits, and not help so small a model
    splits = DatasetDict(train=read_messages(data))
    run = finetune("pocket", data=splits)
    with tempfile.TemporaryDirectory() as folder:
        save_classifier(run.model, run.tokenizer, Path(folder))
        config_path = Path(folder, "config.json")
        config = json.loads(config_path.read_text())
        del config["auto_map"], config["custom_pipelines"]  # these name code files, which the package contains already
        config_path.write_text(json.dumps(config, indent=2) + "\n")
        output_dir.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(Path(folder, name), output_dir / name)
    seen = {"SMS Spam Collection": fingerprints(splits)["train"]}
    (output_dir / BUNDLED_SOURCES).write_text(json.dumps(seen, indent=2) + "\n")
    click.echo(f"Trained in {run.history.seconds:.0f} s. The model is in {output_dir}")


if __name__ == "__main__":
    entry.run(main, "train_bundled.py")
