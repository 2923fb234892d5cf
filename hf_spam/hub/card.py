"""The model card of a run: text in `card_template.md`, data here."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.messages import LABEL_NAMES, OWN_DATA
from ..evaluation.baseline import ahead
from ..modeling.configuration_spam_gpt import class_names
from ..printable import in_markdown
from ..provenance import is_path, public, versions

if TYPE_CHECKING:
    from ..training.loop import Run

TEMPLATE = Path(__file__).with_name("card_template.md")
MODEL_NAME = "SpamGPT"
PLACEHOLDER = "path/to/this/model"  # in a card, until it is known which repository it goes to
DATA = {
    "uci": "the [SMS Spam Collection](https://doi.org/10.24432/C5CC84) (Almeida and Gómez Hidalgo 2011; CC BY 4.0)",
    "sample": "the sample messages that come with hf_spam (MIT)",
    OWN_DATA: "messages of the trainer's own",
}
HUB_ID = {"uci": "ucirvine/sms_spam"}
PROTOCOLS = {
    "book": "The splits are the book's: balanced, and drawn without regard to duplicates, so that some messages of the "
    "test split may stand in the training split word for word.",
    "full": "Messages that are alike are in one split, unless the data came with splits of its own.",
}
CARD_METRICS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC AUC",
    "false_positive_rate": "False-positive rate",
}


def render_card(run: "Run", plots: Sequence[str] = ()) -> str:
    """The text of the card, with the results as a `model-index` that the Hub reads.

    Args:
        run: the finished run.
        plots: the figures that are beside it, "loss" and "accuracy".
    """
    recipe = run.recipe
    names = class_names(run.model.config)
    means = ("precision", "recall", "f1") if len(names) > 2 else ()
    metric_names = [name for name in CARD_METRICS if all(name in values for values in run.metrics.values())]
    own = recipe.data == OWN_DATA
    split = next((name for name in ("test", "validation") if name in run.metrics), None)
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=HUB_ID.get(recipe.data, public(recipe.data)),
            dataset_name=public(recipe.data),
            dataset_split=split,
            dataset_config=None if own else recipe.protocol,
            metric_type=name,
            metric_name=f"Macro {CARD_METRICS[name]}" if name in means else CARD_METRICS[name],
            metric_value=value,
            metric_args={"average": "macro"} if name in means else None,
        )
        for name, value in run.metrics.get(split, {}).items()
        if name in CARD_METRICS and value is not None
    ]
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=[*(["spam-detection", "sms"] if names == LABEL_NAMES else []), "hf_spam"],
        base_model=None if recipe.base == "random" or is_path(recipe.base) else recipe.base,
        model_name=MODEL_NAME,
        datasets=HUB_ID.get(recipe.data),
        eval_results=results or None,
    )
    compared = [name for name in run.metrics if name in run.baseline]
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        model_name=MODEL_NAME,
        repo_id=PLACEHOLDER,
        plots=plots,
        recipe=recipe,
        names=None if names == LABEL_NAMES else [in_markdown(name) for name in names],
        protocol="" if own else PROTOCOLS[recipe.protocol],
        metric_names=metric_names,
        metrics=_beside(run.metrics, run.baseline),
        verdicts=[f"On {name}, {ahead(run.metrics[name]['f1'], run.baseline[name]['f1'])}." for name in compared],
        data=DATA.get(recipe.data, f"`{public(recipe.data)}`"),
        base="random" if recipe.base == "random" else f"`{public(recipe.base)}`",
        parameters=f"{run.model.num_parameters():,}",
        trained=f"{run.trained:,}",
        examples_seen=f"{run.history.examples_seen:,}",
        seconds=round(run.history.seconds),
        calibration=run.calibration.in_words("of the validation split", in_markdown) if run.calibration else [],
        threshold=run.model.config.threshold,
        spam=in_markdown(run.calibration.spam) if run.calibration and run.calibration.spam else None,
        is_calibrated=run.model.config.temperature != 1,
        settings={name: public(value) for name, value in asdict(recipe).items() if name not in ("name", "summary")},
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
    )
    return str(card)


def _beside(metrics: dict[str, dict], baseline: dict[str, dict]) -> dict[str, dict]:
    """The rows of the table of results: each split's, and below it those of the baseline."""
    rows = {}
    for split, values in metrics.items():
        rows[split] = values
        if split in baseline:
            rows[f"{split}, baseline"] = baseline[split]
    return rows
