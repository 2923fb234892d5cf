"""The command line, `hf-spam` or `python -m hf_spam`: parses, calls, prints. Heavy libraries are imported late."""

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from . import options, terminal
from .cli_models import COMMANDS
from .entry import is_main_process, run, show_log
from .experiments.book_table import PUBLISHED
from .files import check_writable, write_json
from .terminal import finish
from .training.recipes import RECIPES
from .training.settings import PRETRAINING, Recipe, RunOptions


@click.group(commands=COMMANDS, context_settings={**options.CONTEXT, "max_content_width": 110})
@click.version_option(package_name="hf-spam", prog_name="hf-spam")
def cli() -> None:
    """Train, evaluate and use small GPTs that tell spam from not spam in text messages."""
    show_log()


@cli.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(list(RECIPES)))
@options.as_json
def recipes(names: tuple[str, ...], as_json: bool) -> None:
    """List the recipes, or compare the settings of the named ones with the book's."""
    values = [{**asdict(RECIPES[name]), "published": PUBLISHED.get(name)} for name in names or RECIPES]
    others = [RECIPES[name] for name in names if name != "book"]
    if names:
        note = ["·  same as the book"] if others else []
        finish(as_json, values, terminal.settings_table(RECIPES["book"], others), *note)
    else:
        finish(as_json, values, terminal.recipes_table(values), terminal.ACCURACIES)


@cli.command(cls=options.SettingsCommand)
@options.recipe_option(None, "corrections with --base bundled, otherwise book")
@options.as_json
@click.pass_context
@options.options_of(RunOptions, "Saving, resuming and pushing")
@options.options_of(Recipe)
def train(ctx: click.Context, name: str | None, as_json: bool, **settings: Any) -> None:
    """Fine-tune a classifier and save it.

    A recipe holds the settings of a run, and flags override them; `hf-spam recipes NAME` shows them. The model goes to
    runs/NAME unless --output-dir says otherwise.

    With --base bundled, DATA are messages that the bundled model should get right: see the recipe corrections.
    """
    given = options.given_settings(ctx, settings)
    name = name or ("corrections" if given.get("base") == "bundled" else "book")
    output_dir = given.setdefault("output_dir", f"runs/{name}")
    hub_settings = [setting for setting in given if setting.startswith("hub_")]
    if hub_settings and not given.get("push_to_hub"):
        raise click.UsageError(f"--{hub_settings[0].replace('_', '-')} needs --push-to-hub.")
    options.reachable(given.get("base", RECIPES[name].base))
    options.reachable_data(given.get("data", RECIPES[name].data))
    from .evaluation.baseline import BASELINE
    from .training.finetune import finetune

    finished = finetune(name, **given)
    results = {"metrics": finished.all_metrics, "baseline": finished.baseline, "history": asdict(finished.history)}
    shown = [terminal.metrics_table(finished.all_metrics), *finished.corrections]
    if finished.baseline:
        shown += [f"Baseline: {BASELINE}, trained on the same messages.", *finished.verdicts]
    saved = f" The model, its card, history and plots are in {output_dir}" if output_dir else ""
    shown.append(f"Trained in {finished.history.seconds:.0f} s.{saved}")
    finish(as_json, {"output_dir": output_dir, **results}, *shown)


@cli.command(cls=options.SettingsCommand)
@options.recipe_option("inbox")
@click.option("--output-dir", required=True, type=click.Path(), help="Folder for the network; empty or new.")
@options.as_json
@click.pass_context
@options.options_of(Recipe, names=PRETRAINING)
def pretrain(ctx: click.Context, name: str, output_dir: str, as_json: bool, **settings: Any) -> None:
    """Pretrain a network as a language model on messages without labels.

    `hf-spam train --base OUTPUT_DIR` fine-tunes it. The data may be a .txt file with a message on each line, or any
    other source, whose labels are ignored. Do not pretrain on messages that you will test on.
    """
    from .training.finetune import pretrain_base

    losses = pretrain_base(name, output_dir=output_dir, **options.given_settings(ctx, settings))
    result = {"output_dir": output_dir, "losses": losses}
    finish(as_json, result, f"The pretrained network is in {output_dir}")


@cli.command(cls=options.SettingsCommand)
@options.recipe_option("book")
@click.option("--folds", type=int, default=5, show_default=True, help="Number of folds.")
@click.option("--repeats", type=int, default=1, show_default=True, help="Number of repeats, each with another seed.")
@click.option("--by-source", is_flag=True, help="Leave out one source of --data at a time in place of folds.")
@click.option(
    "--output-dir", type=click.Path(file_okay=False), help="Folder for finished runs, which are not run again."
)
@options.as_json
@click.pass_context
@options.options_of(Recipe)
def crossval(ctx: click.Context, name: str, as_json: bool, **settings: Any) -> None:
    """Cross-validate a recipe and a linear baseline.

    All messages are used, and duplicates stay in one fold. Results are also shown by source, category and language if
    the data have them. No model is saved. With --output-dir, the same command goes on after an interruption.
    """
    given = options.given_settings(ctx, settings)
    options.reachable(given.get("base", RECIPES[name].base))
    options.reachable_data(given.get("data", RECIPES[name].data))
    from .experiments.breakdown import groups_tables
    from .experiments.crossval import cross_validate

    for module in ("loop", "pretraining"):  # hide the losses of every run
        logging.getLogger(f"hf_spam.training.{module}").setLevel(logging.WARNING)
    results = cross_validate(name, **given)
    shown = [terminal.crossval_table(results)]
    kinds = {"model": name} | ({"baseline": "baseline"} if results["mean"]["baseline"] else {})
    for table in groups_tables(results["groups"], kinds):
        shown += [terminal.make_table(table.columns, table.rows, table.title), table.note] if table.rows else []
    slowest = max(run["seconds"] for run in results["runs"])
    shown.append(f"Mean and standard deviation over {len(results['runs'])} runs; the slowest took {slowest:.0f} s.")
    finish(as_json, results, *shown, "Pooled: computed on the answers of all runs together.")


@cli.command(cls=options.SettingsCommand)
@click.option("--rows", default="", help="Numbers of rows, or recipe names, separated by commas.  [default: all 19]")
@click.option("--output-dir", type=click.Path(), default="runs/reproduce", show_default=True, help="Output directory.")
@options.as_json
@click.pass_context
@options.options_of(Recipe)
def reproduce(ctx: click.Context, rows: str, output_dir: str, as_json: bool, **settings: Any) -> None:
    """Run the book's additional experiments.

    Obtained accuracies are shown next to the published ones, unless a setting differs from the experiment's. Run the
    same command again to resume after an interruption; finished experiments are not run twice.
    """
    given = options.given_settings(ctx, settings)
    from .experiments.book_table import reproduce

    names = [row.strip() for row in rows.split(",") if row.strip()]
    found = list(reproduce(names, output_dir=output_dir, **given))
    finish(as_json, found, terminal.experiments_table(found), terminal.EXPERIMENTS_NOTE)
    if is_main_process() and all(row["problem"] for row in found):
        raise ValueError("None of the experiments could be run.")


@cli.command()
@click.argument("model", required=False, type=options.reachable)
@options.data_option("Messages: sample, marketing, uci, a file, a folder or a Hub dataset id; several, with commas.")
@click.option("--protocol", type=click.Choice(["book", "full"]), help="Split --data anew.  [default: as in training]")
@click.option("--seed", type=int, default=123, show_default=True, help="Seed for --protocol.")
@click.option("--split", help="Evaluate this split only.  [default: all, with details on test]")
@click.option("--train-data", help="Training messages of MODEL.  [default: from --data, if MODEL was trained on it]")
@options.reading_options
@options.trust_remote_code
@click.option("--output-dir", type=click.Path(file_okay=False), help="Directory for report.html and report.json.")
@options.as_json
def evaluate(model: str | None, data: str, output_dir: str | None, as_json: bool, **how: Any) -> None:
    """Evaluate a model and a linear baseline.

    MODEL is a folder, a Hub id, or bundled, the model that comes with the package (the default). It may also be any
    other sequence classifier, a .skops file or baseline=SOURCE, as for `hf-spam compare`.

    The model's own training data is split as in training, so the model has not seen the test split. Other data forms
    one set. The bundled model was trained or calibrated on all messages of its sources, which its card lists.
    """
    from .data.reading import for_other_data
    from .evaluation.candidates import split_label_map
    from .evaluation.eval_data import load_eval_data
    from .evaluation.figures import report_figures
    from .evaluation.models import BASELINE_PREFIX, load_candidate
    from .evaluation.page import headline, render_page, report_tables, write_page
    from .evaluation.report import make_report

    if output_dir:
        check_writable(Path(output_dir))  # before the work, which takes long
    name = model or "bundled"
    how["label_map"], maps = split_label_map(how["label_map"], [name])
    split, loading = how.pop("split"), {"trust_remote_code": how.pop("trust_remote_code"), **for_other_data(how)}
    candidate = load_candidate(name, label_map=maps[name], any_labels=True, **loading)
    if candidate.train is not None:  # the baseline, trained just now
        how["train_data"] = how["train_data"] or name.removeprefix(BASELINE_PREFIX)
    eval_data = load_eval_data(model, data, classes=candidate.labels, **how)
    report = make_report(candidate, eval_data, split=split, source=data, progress=sys.stderr.isatty())
    values, sentences, tables = report.values, headline(report.values), report_tables(report.values)
    if output_dir:
        title = f"{values['model']} on {values['data']}"
        page = render_page(title, sentences, tables, values["versions"], report_figures(report))
        write_page(output_dir, "report", values, page)
    finish(as_json, values, *terminal.report_parts(sentences, tables), *_written(output_dir, "report"))


@cli.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=options.reachable)
@options.data_option("Messages: sample, marketing, uci, a file, a folder or a Hub dataset id; several, with commas.")
@click.option(
    "--train-data", metavar="MODEL=SOURCE", multiple=True, help="Training messages of a model, to find them in --data."
)
@options.reading_options
@options.trust_remote_code
@click.option("--output-dir", type=click.Path(file_okay=False), help="Directory for compare.html and compare.json.")
@options.as_json
def compare(models: tuple[str, ...], data: str, output_dir: str | None, as_json: bool, **how: Any) -> None:
    """Compare classifiers on the same messages.

    A MODEL is

    \b
    - a model of ours or an export of one: a folder, a Hub id, or bundled
    - a folder or Hub id of any sequence classifier of transformers, a PEFT
      adapter for one, or a SetFit model
    - a .skops file: a scikit-learn pipeline that takes texts
    - baseline=SOURCE: a linear baseline, trained on these messages

    If the labels of a model do not say which is spam, --label-map LABEL_1=spam does, or MODEL:LABEL_1=spam for one
    model only. All metrics are shown again without messages that any of the models was trained on, if it is known.
    """
    from .evaluation.page import render_page, write_page
    from .experiments.compare import compare, compare_tables, notes

    if output_dir:
        check_writable(Path(output_dir))  # before the work, which takes long
    values = compare(models, data, progress=sys.stderr.isatty(), **how)
    tables, sentences = compare_tables(values), notes(values)
    if output_dir:
        title = f"{len(models)} models on {values['data']}"
        write_page(output_dir, "compare", values, render_page(title, sentences, tables, values["versions"]))
    finish(as_json, values, *terminal.report_parts(sentences, tables), *_written(output_dir, "compare"))


def _written(output_dir: str | None, name: str) -> list[str]:
    return [f"The report is in {os.path.join(output_dir, name)}.html and {name}.json."] if output_dir else []


@cli.command()
@click.argument("model", type=options.reachable)
@click.option(
    "--uci",
    type=options.reachable_data,
    metavar="TEXT",
    help="The SMS Spam Collection: uci, or its file.  [default: it is left out]",
)
@click.option("--recipe", type=click.Choice(list(RECIPES)), metavar="NAME", help="Cross-validate this recipe on --uci.")
@options.label_map
@options.trust_remote_code
@click.option("--output", type=click.Path(dir_okay=False), help="File for the results, as JSON.")
@options.as_json
def benchmark(model: str, output: str | None, as_json: bool, **how: Any) -> None:
    """Measure a classifier on a fixed suite of messages.

    MODEL is one that `hf-spam compare` takes. If it was trained on the SMS Spam Collection with a recipe, --recipe
    measures that recipe on --uci by cross-validation.

    The suite has the messages of the sample that the bundled model was not trained on, also obfuscated in seven ways,
    and counts how many of them were in the training data of MODEL. The last lines are a Markdown table of one row, to
    put beside those of other models.
    """
    from .experiments.benchmark import benchmark, benchmark_tables, markdown

    if output:
        check_writable(Path(output).parent)  # before the work, which takes long
    values = benchmark(model, progress=sys.stderr.isatty(), **how)
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(output), values)
    seen = "not known" if values["suite"]["seen"] is None else f"{values['suite']['seen']:,}"
    notes = [f"Messages of the suite that the model was trained on: {seen}. UCI: {values['uci']['how']}."]
    finish(as_json, values, *terminal.report_parts(notes, benchmark_tables(values)), markdown([values]))


@cli.command()
@click.argument("texts", nargs=-1)
@options.model_option
@click.option("--explain", is_flag=True, help="Show how much each word changed the answer.")
@options.as_json
def classify(texts: tuple[str, ...], model: str, explain: bool, as_json: bool) -> None:
    """Classify messages: TEXTS, or the lines of standard input.

    The bundled model was trained on messages of 2006 to 2026 in many languages, nearly half of them in English. It
    makes more mistakes on other languages and kinds of messages.
    """
    from .inference.quick import quick_classifier

    if not texts:
        texts = tuple(line.rstrip("\r\n") for line in click.get_text_stream("stdin", errors="surrogateescape"))
    classifier = None if explain else quick_classifier(model)
    if classifier is None:
        from .inference.classifier import SpamClassifier  # imports torch

        classifier = SpamClassifier.from_pretrained(model)
    answers = map(asdict, classifier.explain(texts)) if explain else classifier(texts)
    if as_json:
        for text, answer in zip(texts, answers, strict=True):
            click.echo(json.dumps({"text": text, **answer}))
    elif explain:
        for answer in answers:
            terminal.show(terminal.explanation(answer))
    else:
        terminal.show(terminal.answers_table(texts, answers))


@cli.command()
@click.argument("source", metavar="IN", type=options.reachable_data)
@click.argument("output", metavar="OUT", type=click.Path(allow_dash=True))
@options.model_option
@options.text_column
@options.encoding
@options.skip_bad_rows
@click.option("--split", help="Split of a dataset on the Hub.  [default: train]")
@click.option("--prefix", default="", help="Prefix for the names of the new columns.")
@click.option("--window-size", type=int, help="Rows to score and save at a time.  [default: 4096; with Ray 16384]")
@click.option("--num-processes", type=int, help="Number of processes.  [default: one per core]")
@click.option("--overwrite", is_flag=True, help="Replace OUT, and discard the parts of an unfinished run.")
@click.option("--engine", type=click.Choice(["ray"]), help="Score on a Ray cluster.  [default: on this machine]")
@click.option("--address", help="Address of the cluster.  [default: one on this machine, which is started if need be]")
@options.as_json
@click.pass_context
def score(
    ctx: click.Context, source: str, output: str, model: str, engine: str | None, as_json: bool, **settings: Any
) -> None:
    """Score the messages of a file.

    Writes the rows of IN to OUT with two more columns, label and score.

    IN is a .csv, .tsv, .jsonl, .parquet or .txt file (a message per line), also in a .zip or .gz, - for standard input,
    or a Hub dataset id. A row without a text gets an empty label and score. OUT is a .jsonl, .parquet, .csv or .tsv
    file, or - for JSON lines on standard output.

    Run the same command again to resume after an interruption.

    With --engine ray, IN may also be a folder or a pattern such as s3://bucket/*.csv, and OUT is a folder of parts.
    """
    if not engine and output != "-" and settings["num_processes"] != 1:
        from .inference.quick import find_graph
        from .inference.workers import start_forkserver

        start_forkserver(source, quick=find_graph(model) is not None)  # before the imports below, which take time too
    from .inference.scoring import STANDARD, load_scorer, score_file, score_stream, trained_text_column

    given = options.given_settings(ctx, settings)
    if ("address" in given and not engine) or (engine and ("split" in given or STANDARD in (source, output))):
        raise click.UsageError("--address needs --engine ray, which cannot be used with --split, IN - or OUT -.")
    if output == STANDARD and (as_json or given.keys() & {"overwrite", "num_processes"}):
        raise click.UsageError("--json, --overwrite and --num-processes cannot be used with OUT -.")
    given["remembered"] = (trained_text_column(model), None)
    if output == STANDARD:
        score_stream(load_scorer(model), source, sys.stdout.buffer, **given)
        return
    given["progress"] = sys.stderr.isatty()
    if engine:
        from .inference.ray_data import score_with_ray

        scored = score_with_ray(load_scorer(model, device="cpu"), source, output, **given)
        for fault in scored.files_left_out:
            click.echo(f"Left out {fault}", err=True)
    else:
        scored = score_file(load_scorer(model), source, output, **given)
    if as_json:
        click.echo(json.dumps(asdict(scored)))
    rate = (scored.rows + scored.left_out - scored.resumed_rows) / scored.seconds
    labels = ", ".join(f"{count:,} {label}" for label, count in scored.labels.items())
    labels += f", {scored.missing:,} without text" if scored.missing else ""
    if scored.left_out:
        click.echo(f"Left out {scored.left_out:,} rows: {'; '.join(scored.first_left_out)}", err=True)
    click.echo(f"{scored.rows:,} rows ({labels}) are in {output}: {rate:,.0f} rows/s", err=True)


def main() -> NoReturn:
    """Run the command line and exit."""
    run(cli, "hf-spam")
