"""Commands that copy, convert and share models and messages; part of the command line in `cli.py`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from . import options, terminal
from .terminal import finish


@click.command()
@click.argument("model", type=click.Path())
@click.argument("repo_id", metavar="[REPO]", required=False)
@click.option("--space", is_flag=True, help="Push a page that runs MODEL in the browser, as a static Space.")
@click.option("--resume", is_flag=True, help="Send the uploads left in the queue of an earlier run.")
@options.private
@options.branch
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait for the uploads.")
def push(model: str, repo_id: str | None, space: bool, resume: bool, **settings: Any) -> None:
    """Push a model or an export to the repository REPO.

    MODEL is the folder of a model, a checkpoint or an export. With --space it may also be a Hub id, or bundled. With
    --resume, give MODEL only.
    """
    from .hub.push import push_folder, push_queue, push_space

    if resume and (repo_id or space):
        raise click.UsageError("--resume takes neither REPO nor --space.")
    if not resume and repo_id is None:
        raise click.UsageError("Give the repository to push to (owner/name), or --resume to send the queue.")
    if resume:
        push_queue(Path(model), timeout=settings["timeout"])
    elif space:
        terminal.show(f"The page is at {push_space(model, repo_id, **settings)}")
    else:
        terminal.show(f"The commit is {push_folder(Path(model), repo_id, **settings)}")


@click.group()
def data() -> None:
    """Prepare and share messages."""


@data.command("push")
@click.argument("source")
@click.argument("repo_id", metavar="REPO")
@click.option("--protocol", type=click.Choice(["book", "full"]), default="full", show_default=True, help="Splits.")
@click.option("--seed", type=int, default=123, show_default=True, help="Seed for the splits.")
@options.reading_options
@options.private
@options.branch
@options.as_json
def push_data(source: str, repo_id: str, as_json: bool, **settings: Any) -> None:
    """Push messages to a Hub dataset, split and with a card.

    SOURCE is sample, marketing, uci, a file, a folder or a Hub dataset id. To read the splits back: --data REPO
    --protocol full.
    """
    from .hub.dataset import push_dataset

    url = push_dataset(source, repo_id, **settings)
    finish(as_json, {"commit_url": url}, f"The splits and their card are at {url}")


@click.command("import-weights")
@click.argument("source", type=options.reachable)
@click.argument("output_dir", metavar="OUT", type=click.Path())
@click.option("--n-head", type=int, help="Attention heads of a book file.  [default: found in SOURCE, or n_embd / 64]")
@click.option(
    "--padded-length",
    type=options.Setting(int | Literal["auto"] | None),
    default="auto",
    help="Length to which messages were padded in training; none: no padding.  [default: found in SOURCE, or 120]",
)
@click.option(
    "--pad-token-id",
    type=int,
    help="Token that they were padded with.  [default: that of --tokenizer, found in SOURCE, or 50256]",
)
@click.option(
    "--lora-alpha",
    type=float,
    help="Factor of the LoRA layers of a book file: alpha, or alpha / rank where the code divides it.",
)
@click.option("--tokenizer", help="Tokenizer: a folder or a Hub id.  [default: that of SOURCE, if it has one]")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
def import_weights(source: str, output_dir: str, tokenizer: str | None, **settings: Any) -> None:
    """Convert weights from the book or from GPT-2.

    SOURCE is a state_dict saved as in the book, or a GPT-2 (a folder or a Hub id). OUT becomes a SpamGPT model.

    A book file does not say how its classifier pads messages: what is assumed is shown, and these options change it.
    """
    from .conversion.import_weights import import_weights
    from .conversion.loading import load_tokenizer

    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    model = import_weights(source, output_dir, tokenizer=loaded, **settings)
    terminal.show(f"The {type(model).__name__} with {model.num_parameters():,} parameters is in {output_dir}")


@click.command()
@click.argument("model", type=options.reachable)
@click.argument("output_dir", metavar="OUT", type=click.Path())
@click.option("--format", type=click.Choice(["gpt2", "onnx"]), required=True, help="Format of the weights.")
@click.option("--fold-threshold", is_flag=True, help="Shift the scores so that the largest obeys the threshold.")
@click.option("--handler", is_flag=True, help="Add a handler.py for Inference Endpoints.")
@click.option("--data", default="sample", show_default=True, help="Messages to compare on: a source, as for evaluate.")
@options.text_column
@options.encoding
@options.skip_bad_rows
@options.as_json
def export(model: str, output_dir: str, as_json: bool, **settings: Any) -> None:
    """Export a model for other programs.

    MODEL is a folder, a Hub id, or bundled. OUT is a new folder: with --format gpt2 a stock GPT-2 classifier of
    transformers, which vLLM runs too; with --format onnx graphs in fp32 and int8, for ONNX Runtime, Transformers.js,
    optimum and Text Embeddings Inference. Either can be used as --model.

    Every runtime that is installed classifies the messages of --data. If more than one label in a thousand differs from
    the model's, nothing is written. The result is in OUT/parity.json.
    """
    from .hub.export import export_model

    certificate = export_model(model, output_dir, progress=sys.stderr.isatty(), **settings)
    finish(as_json, certificate, *terminal.agreement_parts(certificate), f"The export is in {output_dir}")


@click.command()
@click.argument("output", metavar="OUT.html", type=click.Path())
@options.model_option
def demo(output: str, model: str) -> None:
    """Write a page that runs a model in the browser.

    OUT.html is one file with the model inside. It needs no installation and no connection: open it from the disk, or
    put it on any web server. It shows the label and score of messages, and the words that made them.
    """
    from .hub.space import write_demo

    write_demo(model, output)
    terminal.show(f"The page is {output}: open it in a browser.")


@click.command()
@click.argument("output_dir", metavar="OUT", type=click.Path())
@options.model_option
@options.data_option("Messages the model was not trained on: a source, as for evaluate.")
@click.option("--target-fpr", type=float, help="Allowed false-positive rate.  [default: no threshold]")
@click.option("--confidence", type=float, help="Confidence that new messages keep to it too.  [default: not promised]")
@options.reading_options
@options.as_json
def calibrate(output_dir: str, as_json: bool, **settings: Any) -> None:
    """Calibrate a copy of a model on your messages.

    OUT is a new folder for a model whose scores are probabilities. With --target-fpr it also gets a threshold: at most
    that fraction of the ham in --data is called spam. Of the model's own training data, only the validation split is
    used. The copy gets a card of its own; metrics are not copied.
    """
    from .training.recalibration import calibrated_copy

    calibration = calibrated_copy(output_dir=output_dir, progress=sys.stderr.isatty(), **settings)
    finish(as_json, asdict(calibration), *calibration.summary(), f"The model is in {output_dir}")


COMMANDS = (push, data, import_weights, export, demo, calibrate)
