"""Trains the model that comes with the package: recipe `pocket` on the whole SMS Spam Collection.

    python scripts/train_pocket.py --data ../shared/data/SMSSpamCollection

The same versions on the same kind of processor give the same file. How good the recipe is on messages that it has not
seen is another script's business: `measure_pocket.py`.
"""

import json
import shutil
import tempfile
from pathlib import Path

import click
import torch
from datasets import DatasetDict

from hf_spam import cli, finetune
from hf_spam.conversion.checksum import save_with_checksum
from hf_spam.data.sources import read_messages

POCKET = Path(__file__).parents[1] / "hf_spam" / "bundled"
SHIPPED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--output-dir", default=POCKET, type=click.Path(path_type=Path), show_default=True, help="Where it goes.")
def main(data: str, output_dir: Path) -> None:
    """Trains the bundled model."""
    torch.set_num_threads(1)  # sums depend on it in the last digit; so small a model is no faster on more
    run = finetune("pocket", data=DatasetDict(train=read_messages(data)))
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_with_checksum(run.model, Path(folder))
        config = Path(folder, "config.json")
        settings = json.loads(config.read_text())
        del settings["auto_map"], settings["custom_pipelines"]  # the code is in the package, not beside the model
        config.write_text(json.dumps(settings, indent=2) + "\n")
        run.tokenizer.save_pretrained(folder)
        for name in SHIPPED:
            shutil.copyfile(Path(folder, name), output_dir / name)
    size = sum((output_dir / name).stat().st_size for name in SHIPPED)
    click.echo(f"{size:,} bytes in {output_dir}, {run.history.seconds:.0f} s of training")


if __name__ == "__main__":
    cli.main(main, "train_pocket.py")
