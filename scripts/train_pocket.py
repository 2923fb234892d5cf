"""Trains the model that comes with the package: recipe `pocket` on the whole SMS Spam Collection.

    python scripts/train_pocket.py --data ../shared/data/SMSSpamCollection

The same versions on the same kind of processor give the same file. How good the recipe is on messages that it has not
seen is another script's business: `measure_pocket.py`.
"""

from pathlib import Path

import click
import torch
from datasets import DatasetDict

from hf_spam import finetune
from hf_spam.data.messages import read_messages

POCKET = Path(__file__).parents[1] / "hf_spam" / "pocket"
SHIPPED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@click.command()
@click.option("--data", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--output-dir", default=POCKET, type=click.Path(path_type=Path), show_default=True, help="Where it goes.")
def main(data: str, output_dir: Path) -> None:
    """Trains the bundled model."""
    torch.set_num_threads(2)  # sums depend on it in the last digit
    run = finetune("pocket", data=DatasetDict(train=read_messages(data)))
    run.model.save_pretrained(output_dir)
    run.tokenizer.save_pretrained(output_dir)
    for file in output_dir.iterdir():
        if file.name not in SHIPPED:  # the code of the model, which the package has already
            file.unlink()
    size = sum(file.stat().st_size for file in output_dir.iterdir())
    click.echo(f"{size:,} bytes in {output_dir}, {run.history.seconds:.0f} s of training")


if __name__ == "__main__":
    main()
