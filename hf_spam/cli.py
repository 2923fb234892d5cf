"""The command line, `hf-spam` or `python -m hf_spam`: parses, calls, prints. Heavy libraries are imported late."""

import json
import logging
import os
import signal
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from .hub.settings import PushSettings
from .options import given_of, options_of
from .signals import Interrupted, stopping_at_signals
from .terminal import excerpt, fitted, make_table, metrics_table, show
from .text import printable
from .training.recipes import PUBLISHED_IN, RECIPES, Recipe

SPLITS = ("train", "validation", "test")
ROWS_SHOWN = 20  # of a table of errors
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
text_column = click.option("--text-column", help="Where the texts are.  [default: text, message, sms or v2]")
label_column = click.option(
    "--label-column", help="Where the labels are, which may be any.  [default: label, category, class or v1]"
)


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="hf-spam", prog_name="hf-spam")
def cli() -> None:
    """Train, evaluate and use GPTs that tell spam from not spam in text messages."""


@cli.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(list(RECIPES)))
@as_json
def recipes(names: tuple[str, ...], as_json: bool) -> None:
    """List the recipes, or show all settings of those that are named, beside the book's."""
    if as_json:
        chosen = [RECIPES[name] for name in names or RECIPES]
        published = (recipe.published and asdict(recipe.published) for recipe in chosen)
        pairs = zip(chosen, published, strict=True)
        click.echo(json.dumps([{**asdict(recipe), "published": numbers} for recipe, numbers in pairs], indent=2))
        return
    if not names:
        table = make_table("recipe", "row", "what it is", "published")
        for recipe in RECIPES.values():
            published = asdict(recipe.published) if recipe.published else {"row": "-"}
            table.add_row(recipe.name, str(published["row"]), recipe.summary, _accuracies(published))
        show(table)
        show(f"Accuracies on train, validation and test in percent. {PUBLISHED_IN}")
        return
    others = [name for name in names if name != "book"]
    table = make_table("", "book", *others)
    for field in fields(Recipe):
        book, *values = (_plain(getattr(RECIPES[name], field.name)) for name in ("book", *others))
        if field.name not in ("name", "summary"):
            table.add_row(field.name, book, *("·" if value == book else value for value in values))
    show(table)
    if others:
        show("·  as in the book")


@cli.command()
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="book", show_default=True, help="Settings.")
@click.option("--output-dir", type=click.Path(), help="Where the model goes.  [default: runs/RECIPE]")
@click.option("--overwrite-output-dir", is_flag=True, help="Replace an earlier run's files in the output directory.")
@click.option("--report-to", help="Tracker of Accelerate's, such as tensorboard.")
@click.option("--save-steps", type=int, help="Optimizer steps between two checkpoints.  [default: no checkpoints]")
@click.option(
    "--save-total-limit", type=int, help="Checkpoints kept; the best and the last always are.  [default: all]"
)
@click.option("--resume-from-checkpoint", help="auto (the newest of the output directory), hub, or a checkpoint.")
@click.option("--allow-differences", is_flag=True, help="Go on also from a checkpoint of another recipe or data.")
@click.option("--push-to-hub", is_flag=True, help="Push the model to the Hub.")
@as_json
@click.pass_context
@options_of(PushSettings, "hub_")
@options_of(Recipe)
def train(
    ctx: click.Context,
    name: str,
    output_dir: str | None,
    overwrite_output_dir: bool,
    report_to: str | None,
    save_steps: int | None,
    save_total_limit: int | None,
    resume_from_checkpoint: str | None,
    allow_differences: bool,
    push_to_hub: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Fine-tune a classifier and save it. Every setting of the recipe has a flag; `recipes NAME` shows them all."""
    given = given_of(ctx, settings)
    output_dir = output_dir or f"runs/{name}"
    of_hub = {key.removeprefix("hub_"): given.pop(key) for key in list(given) if key.startswith("hub_")}
    if of_hub and not push_to_hub:
        raise click.UsageError(f"--hub-{next(iter(of_hub)).replace('_', '-')} needs --push-to-hub.")
    push = None
    if push_to_hub:
        push = PushSettings(**{"model_id": os.path.basename(os.path.abspath(output_dir)), **of_hub})
    from .evaluation.baseline import BASELINE, ahead
    from .training.loop import finetune

    _quiet_libraries()
    _show_log()
    run = finetune(
        name,
        output_dir=output_dir,
        report_to=report_to,
        overwrite_output_dir=overwrite_output_dir,
        save_steps=save_steps,
        save_total_limit=save_total_limit,
        resume_from_checkpoint=resume_from_checkpoint,
        allow_differences=allow_differences,
        push=push,
        **given,
    )
    if not _is_main_process():
        return
    if as_json:
        results = {"metrics": run.metrics, "baseline": run.baseline, "history": asdict(run.history)}
        click.echo(json.dumps({"output_dir": output_dir, **results}))
        return
    show(metrics_table(run.metrics))
    if run.baseline:
        show(f"Baseline: {BASELINE}, of the same messages.")
    for split, values in run.baseline.items():
        threshold = run.model.config.threshold
        show(f"On {split}, {ahead(run.metrics[split]['f1'], values['f1'], threshold)}.")
    show(f"{run.history.seconds:.0f} s of training. Model, card, history and plots are in {output_dir}")


@cli.command()
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="book", show_default=True, help="Settings.")
@click.option("--folds", type=int, default=5, show_default=True, help="Parts, each of which is tested on in turn.")
@click.option("--repeats", type=int, default=1, show_default=True, help="Times that all is done, with other seeds.")
@as_json
@click.pass_context
@options_of(Recipe)
def crossval(ctx: click.Context, name: str, folds: int, repeats: int, as_json: bool, **settings: Any) -> None:
    """Cross-validate a recipe, beside a linear baseline. Every setting of the recipe has a flag (see `recipes NAME`).

    All messages count, and duplicates are in one fold. Nothing is saved.
    """
    given = given_of(ctx, settings)
    from .experiments.crossval import cross_validate, figure

    _quiet_libraries()
    _show_log()
    logging.getLogger("hf_spam.training.loop").setLevel(logging.WARNING)  # the losses of every run would bury the rest
    results = cross_validate(name, folds=folds, repeats=repeats, **given)
    if not _is_main_process():
        return
    if as_json:
        click.echo(json.dumps(results))
        return
    table = make_table("metric", name, "pooled", results["baseline"], "pooled")
    for metric in results["mean"]["model"]:
        shown = ((kind, what) for kind in ("model", "baseline") for what in ("mean", "pooled"))
        table.add_row(metric, *(figure(results, metric, *which) for which in shown))
    show(table)
    seconds = max(run["seconds"] for run in results["runs"])
    show(f"Mean and standard deviation of {len(results['runs'])} runs, the slowest of which took {seconds:.0f} s.")
    show("Pooled: of the answers of all runs together.")


@cli.command()
@click.option("--rows", default="", help="Numbers of the table or recipes, separated by commas.  [default: all 19]")
@click.option("--output-dir", type=click.Path(), default="runs/reproduce", show_default=True, help="Where they go.")
@as_json
@click.pass_context
@options_of(Recipe)
def reproduce(ctx: click.Context, rows: str, output_dir: str, as_json: bool, **settings: Any) -> None:
    """Run the book's additional experiments and show what comes out beside what was published.

    Each has a recipe and a folder. What was killed goes on when the same command is given again, and what is finished
    is not run again. Every setting has a flag; with another than the experiment's nothing is shown as published.
    """
    given = given_of(ctx, settings)
    from .experiments.book_table import reproduce

    _quiet_libraries()
    _show_log()
    found = list(reproduce([row.strip() for row in rows.split(",") if row.strip()], output_dir=output_dir, **given))
    if not _is_main_process():
        return
    if as_json:
        click.echo(json.dumps(found))
    else:
        table = make_table("experiment", "published", "obtained", "95 %", "in it")
        for row in found:
            within = row["published"] and row["interval"] and row["published"]["test"]
            table.add_row(
                f"{row['row'] or '-':>2} {row['recipe']}",
                _accuracies(row["published"]),
                "not run" if row["problem"] else _accuracies(row["obtained"]),
                "-".join(f"{bound:.1f}" for bound in row["interval"] or ()),
                "" if not within else "yes" if row["interval"][0] <= within <= row["interval"][1] else "no",
            )
        show(table)
        show(
            "Accuracies on train, validation and test in percent. 95 %: what the number of test messages allows, by "
            "Wilson's interval, around what was obtained on them; in it: whether the published figure is. "
            f"{PUBLISHED_IN}"
        )
    if all(row["problem"] for row in found):
        raise ValueError("None of the experiments could be run.")


@cli.command()
@click.argument("model", required=False)
@click.option("--data", required=True, help="sample, uci, a local file, or a Hub dataset id.")
@click.option("--protocol", type=click.Choice(["book", "full"]), help="Splits.  [default: the model's own, or none]")
@click.option("--seed", type=int, help="Seed of the splits.  [default: the model's own, or none]")
@click.option("--split", help="Score this set alone.  [default: all, and look closely at test]")
@click.option(
    "--train-data", help="What MODEL was trained on, for baseline and duplicates.  [default: known of its own]"
)
@click.option("--text-column", help="Where the texts are.  [default: as for the model's own data, or known names]")
@click.option("--label-column", help="Where the labels are, which the model is to know.  [default: the same]")
@click.option("--output-dir", type=click.Path(), help="Where report.html and report.json go.  [default: nowhere]")
@as_json
def evaluate(
    model: str | None,
    data: str,
    protocol: Literal["book", "full"] | None,
    seed: int | None,
    split: str | None,
    train_data: str | None,
    text_column: str | None,
    label_column: str | None,
    output_dir: str | None,
    as_json: bool,
) -> None:
    """Evaluate MODEL (a folder or Hub id; the bundled one if none is named), beside a linear baseline.

    Data that the model was trained on are split as they were then, so that its test split is one that it has not seen.
    Other data are one set, however small. The bundled model has seen the whole SMS Spam Collection.
    """
    from .evaluation.eval_data import messages_for
    from .evaluation.page import check_folder, headline, report_tables, write_report
    from .evaluation.report import make_report
    from .inference.classifier import SpamClassifier
    from .modeling.configuration_spam_gpt import class_names

    _quiet_libraries()
    if output_dir:
        check_folder(output_dir)
    classifier = SpamClassifier.from_pretrained(model)
    evaluated = messages_for(
        model,
        data,
        protocol=protocol,
        seed=seed,
        train_data=train_data,
        text_column=text_column,
        label_column=label_column,
        classes=class_names(classifier.model.config),
    )
    report = make_report(classifier, evaluated, split=split, model=model, data=data, progress=sys.stderr.isatty())
    if output_dir:
        write_report(report, output_dir)
    if as_json:
        click.echo(json.dumps(report.values))
        return
    for line in headline(report.values):
        show(printable(line))
    for table in report_tables(report.values):
        if table.rows:
            show(fitted(table.title, table.columns, table.rows[:ROWS_SHOWN]))
        if len(table.rows) > ROWS_SHOWN:
            show(f"and {len(table.rows) - ROWS_SHOWN:,} more (see --output-dir or --json)")
        if table.note:
            show(printable(table.note))
    if output_dir:
        show(f"The report is {os.path.join(output_dir, 'report.html')}, and report.json beside it.")


@cli.command()
@click.argument("texts", nargs=-1)
@click.option("--model", help="Folder or Hub id.  [default: the bundled model]")
@as_json
def classify(texts: tuple[str, ...], model: str | None, as_json: bool) -> None:
    """Classify TEXTS, or the lines of standard input where none is given."""
    from .inference.classifier import SpamClassifier

    if not texts:
        texts = tuple(line.rstrip("\r\n") for line in click.get_text_stream("stdin", errors="surrogateescape"))
    _quiet_libraries()
    answers = SpamClassifier.from_pretrained(model)(list(texts))
    if as_json:
        for text, answer in zip(texts, answers, strict=True):
            click.echo(json.dumps({"text": text, **answer}))
        return
    table = make_table("label", "score", "text")
    for text, answer in zip(texts, answers, strict=True):
        table.add_row(excerpt(answer["label"]), f"{answer['score']:.4f}", excerpt(text))
    show(table)


@cli.command()
@click.argument("source", metavar="IN")
@click.argument("output", metavar="OUT", type=click.Path(allow_dash=True))
@click.option("--model", help="Folder or Hub id.  [default: the bundled model]")
@click.option("--text-column", default="text", show_default=True, help="Where the messages are.")
@click.option("--split", help="Of a dataset on the Hub.  [default: train]")
@click.option("--prefix", default="", help="What the names of the new columns begin with.")
@click.option("--window-size", default=4096, show_default=True, help="Rows scored, and kept, at a time.")
@click.option("--num-processes", type=int, help="On this machine.  [default: one, after 10 s one a core]")
@click.option("--overwrite", is_flag=True, help="Replace OUT, and discard what is left of a run on something else.")
@as_json
def score(source: str, output: str, model: str | None, overwrite: bool, as_json: bool, **settings: Any) -> None:
    """Score the messages of IN, and write its rows to OUT with the columns label and score.

    IN is a .csv, .tsv, .jsonl, .parquet or .txt file (a message a line), - for lines of standard input, or a Hub
    dataset id. OUT is a .jsonl or .parquet file, or .csv or .tsv for what has no types; - prints JSON lines at once.

    A run that was killed goes on when the same command is given again. Under torchrun, every process takes a share.
    """
    from .inference.classifier import SpamClassifier
    from .inference.scoring import STANDARD, score_file, score_stream

    _quiet_libraries()
    _show_log()
    if output == STANDARD:
        if as_json or overwrite or settings.pop("num_processes") is not None:
            raise click.UsageError("With OUT - there are no --json, --overwrite and --num-processes.")
        score_stream(SpamClassifier.from_pretrained(model), source, sys.stdout.buffer, **settings)
        return
    scored = score_file(
        SpamClassifier.from_pretrained(model),
        source,
        output,
        overwrite=overwrite,
        progress=sys.stderr.isatty(),
        **settings,
    )
    if not _is_main_process():
        return
    if as_json:
        click.echo(json.dumps(asdict(scored)))
    rate = (scored.rows - scored.resumed_rows) / scored.seconds
    labels = ", ".join(f"{count:,} {label}" for label, count in scored.labels.items())
    click.echo(f"{scored.rows:,} rows ({labels}) are in {output}: {rate:,.0f} rows/s", err=True)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id", metavar="REPO", required=False)
@click.option("--resume", is_flag=True, help="Send what an earlier run or push left in its queue.")
@click.option("--private", is_flag=True, help="Make the repository a private one, if it is created.")
@click.option("--revision", default="main", show_default=True, help="Branch, created if there is none.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait for the uploads.")
def push(folder: Path, repo_id: str | None, resume: bool, private: bool, revision: str, timeout: float) -> None:
    """Push the model in FOLDER to REPO on the Hub, with its code, card and metrics."""
    from .hub.push import push_folder

    _quiet_libraries()
    _show_log()
    push_folder(folder, repo_id, resume=resume, private=private, revision=revision, timeout=timeout)


@cli.group()
def data() -> None:
    """Prepare messages and share them."""


@data.command("push")
@click.argument("source")
@click.argument("repo_id", metavar="REPO")
@click.option("--protocol", type=click.Choice(["book", "full"]), default="full", show_default=True, help="Splits.")
@click.option("--seed", type=int, default=123, show_default=True, help="Seed of the splits.")
@text_column
@label_column
@click.option("--private", is_flag=True, help="Make the repository a private one, if it is created.")
@click.option("--revision", help="Branch, created if there is none.  [default: main]")
@as_json
def push_data(
    source: str,
    repo_id: str,
    protocol: Literal["book", "full"],
    seed: int,
    text_column: str | None,
    label_column: str | None,
    private: bool,
    revision: str | None,
    as_json: bool,
) -> None:
    """Split the messages of SOURCE and push them to the Hub dataset REPO, with a card.

    SOURCE is sample, uci, a local file, or a Hub dataset id. Read the splits back with --data REPO --protocol full.
    """
    from datasets import disable_progress_bars

    from .hub.dataset import push_dataset

    _quiet_libraries()
    disable_progress_bars()
    url = push_dataset(
        source,
        repo_id,
        protocol=protocol,
        seed=seed,
        text_column=text_column,
        label_column=label_column,
        private=private or None,
        revision=revision,
    )
    click.echo(json.dumps({"commit_url": url}) if as_json else f"The splits and their card are at {url}")


@cli.command("import-weights")
@click.argument("source")
@click.argument("output_dir", type=click.Path())
@click.option("--n-head", type=int, help="Attention heads of a book file.  [default: width / 64]")
@click.option("--tokenizer", help="Folder or Hub id of a tokenizer that goes with it.  [default: the source's, if any]")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
def import_weights(
    source: str, output_dir: str, n_head: int | None, tokenizer: str | None, revision: str | None
) -> None:
    """Turn SOURCE, a state_dict of the book's or a GPT-2 (folder or Hub id), into a SpamGPT folder."""
    from .conversion.import_weights import import_weights
    from .data.tokenization import load_tokenizer

    _quiet_libraries()
    given = None if tokenizer is None else load_tokenizer(tokenizer)
    model = import_weights(source, output_dir, n_head=n_head, tokenizer=given, revision=revision)
    show(f"{type(model).__name__} of {model.num_parameters():,} parameters is in {output_dir}")


@cli.command()
@click.argument("model")
@click.argument("output_dir", metavar="OUT", type=click.Path())
@click.option("--onnx", is_flag=True, required=True, help="As an ONNX graph, for ONNX Runtime.")
@click.option("--int8", is_flag=True, help="With 8-bit weights: faster, and half the size or less.")
@click.option("--data", default="sample", show_default=True, help="Messages to compare on: a source as for evaluate.")
@text_column
@label_column
@as_json
def export(
    model: str,
    output_dir: str,
    onnx: bool,
    int8: bool,
    data: str,
    text_column: str | None,
    label_column: str | None,
    as_json: bool,
) -> None:
    """Export MODEL (a folder or Hub id) to the new folder OUT, which the other commands take for a model too.

    Model and export classify the messages of --data. Where more than one label in a thousand differs, nothing is
    written.
    """
    from .conversion.export import export_onnx

    _quiet_libraries()
    report = export_onnx(
        model,
        output_dir,
        int8=int8,
        data=data,
        text_column=text_column,
        label_column=label_column,
        progress=sys.stderr.isatty(),
    )
    if as_json:
        click.echo(json.dumps(report))
        return
    table = make_table("agreement", report["precision"])
    table.add_row("messages", str(report["messages"]))
    table.add_row("labels that differ", str(report["labels_differ"]))
    table.add_row("largest difference of a score", f"{report['largest_score_difference']:.6f}")
    table.add_row("mean difference of a score", f"{report['mean_score_difference']:.6f}")
    show(table)
    show(f"The export is in {output_dir}")


@cli.command()
@click.argument("output_dir", metavar="OUT", type=click.Path())
@click.option("--model", help="Folder or Hub id.  [default: the bundled model]")
@click.option("--data", required=True, help="Messages that it was not trained on: a source as for evaluate.")
@click.option("--target-fpr", type=float, help="False-positive rate that is allowed.  [default: no threshold]")
@click.option("--text-column", help="Where the texts are.  [default: as for the model's own data, or known names]")
@click.option("--label-column", help="Where the labels are, which are to be the model's.  [default: the same]")
@as_json
def calibrate(output_dir: str, as_json: bool, **settings: Any) -> None:
    """Copy a model to the new folder OUT with scores that are probabilities, on messages of your own.

    With --target-fpr it also gets a threshold: of the messages' ham no more than that part is called spam. Of data that
    the model was trained on only the validation split is looked at. Card and metrics are not copied.
    """
    from .training.recalibration import calibrated_copy

    _quiet_libraries()
    calibration = calibrated_copy(output_dir=output_dir, progress=sys.stderr.isatty(), **settings)
    if as_json:
        click.echo(json.dumps(asdict(calibration)))
        return
    for line in calibration.in_words():
        show(line)
    show(f"The model is in {output_dir}")


def main(command: click.Command = cli, name: str = "hf-spam") -> NoReturn:
    """Runs the command line, or a script's; what a user can get wrong is one line on standard error."""

    def fail(message: str, code: int) -> NoReturn:
        first, *rest = message.strip().splitlines() or ["failed"]
        if not any(line.startswith("  ") for line in rest):  # an indented list of findings is kept as it is
            first, rest = " ".join([first, *rest]), []
        # It may quote the name of a file, or what is in one.
        click.echo("\n".join(map(printable, [f"{name}: {first}", *rest])), err=True)
        sys.exit(code)

    try:
        with stopping_at_signals():
            command(prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(error.exit_code)
    except click.ClickException as error:
        hint = f" (see {error.ctx.command_path} --help)" if getattr(error, "ctx", None) else ""
        fail(error.format_message() + hint, error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:  # Click raises the one from the other
        cause = error.__cause__ or error
        number = cause.number if isinstance(cause, Interrupted) else signal.SIGINT
        if not _is_main_process():
            sys.exit(128 + number)
        fail(str(cause) or "interrupted", 128 + number)
    except BrokenPipeError:  # the reader, such as `head`, has what it wanted
        sys.stdout = None
        sys.exit(1)
    except (ValueError, OSError) as error:
        fail(str(error), 1)
    sys.exit(0)


def _is_main_process() -> bool:
    # Not asked of Accelerate: what it knows before the run has made its `Accelerator` would be taken for settled.
    return os.environ.get("RANK", "0") == "0"


def _quiet_libraries() -> None:
    """What a person has to know is said by this package; the bars and warnings of others would bury it.

    Such as those of every attempt to reach the Hub, where the last is what an error is about.
    """
    import huggingface_hub
    import transformers

    huggingface_hub.utils.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _show_log() -> None:
    """Sends the progress of a run to standard error, from one process only."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("hf_spam").setLevel(logging.INFO if _is_main_process() else logging.WARNING)


def _accuracies(of: dict[str, float | None] | None) -> str:
    """Those of train, validation and test, in percent."""
    values = [(of or {}).get(split) for split in SPLITS]
    return " ".join("-" if value is None else f"{value:.2f}" for value in values)


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)
