"""The model card of a trained model or a calibrated copy, rendered from plain data.

The text is in `card_template.md`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.names import sources_of
from ..files import is_path, public, versions
from ..text import in_markdown

TEMPLATE = Path(__file__).with_name("card_template.md")
MODEL_NAME = "SpamGPT"
PLACEHOLDER = "path/to/this/model"  # replaced by the repository's id when the card is pushed
SPAM_LABELS = ["not spam", "spam"]
SPAM_EXAMPLE = "You are a winner you have been specially selected to receive $1000 cash or a $2000 award."
NEUTRAL_EXAMPLE = "Hello, could you call me back after lunch? Thank you."  # for labels about any topic
NOT_SETTINGS = ("name", "summary")  # fields of a recipe that describe it
DATA = {
    "uci": "the [SMS Spam Collection](https://doi.org/10.24432/C5CC84) (Almeida and Gómez Hidalgo, 2011; CC BY 4.0)",
    "sample": "the sample messages included in hf_spam (MIT)",
    "marketing": "the marketing messages included in hf_spam (MIT)",
}
HUB_DATASETS = {"uci": "ucirvine/sms_spam"}
PROTOCOLS = {
    "book": "The classes are balanced and the splits were drawn at random, as in the book. Duplicates were not "
    "removed, so some test messages may also be in the training split.",
    "full": "Duplicates and near-duplicates are kept in the same split, unless the data came with its own splits.",
}
METRICS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC AUC",
    "false_positive_rate": "False-positive rate",
}
MACRO_AVERAGED = ("precision", "recall", "f1")  # with more than two classes

Metrics = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class TrainingContent:
    """Details of the training that the card shows."""

    recipe: dict[str, Any]
    """All fields of the recipe. Local paths are shortened to their last component."""
    data: str | None
    """Source of the messages. `None` for a `DatasetDict` passed from Python."""
    metrics: Metrics
    """Metrics of each split."""
    baseline: Metrics = field(default_factory=dict)
    """Metrics of the baseline, for some of these splits."""
    verdicts: Sequence[str] = ()
    """Sentences that compare the model with the baseline."""
    parameters: int
    trained_parameters: int
    examples_seen: int
    seconds: float
    trained_before: bool = False
    """Whether the starting weights were already a classifier, trained on other or unknown messages."""
    plots: Sequence[str] = ()
    """Plots next to the card: "loss", "accuracy" or both."""


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """Everything that the card shows about a model. Set either `training` or `copy_of`."""

    labels: Sequence[str]
    """Names of the classes, in order."""
    positive_label: str | None = None
    """Positive class. `None` if there is none."""
    threshold: float | None = None
    """Threshold on the score of the positive class."""
    calibrated: bool = False
    """Whether the scores are calibrated probabilities."""
    calibration: Sequence[str] = ()
    """Sentences about the fitted temperature and threshold."""
    calibrated_on: str = "the validation split"
    """Messages that the calibration was fitted on."""
    training: TrainingContent | None = None
    copy_of: str | None = None
    """Description of the original, for a calibrated copy."""
    base_model: str | None = None
    """Hub id of the original or of the starting weights. Local paths and "random" are left out."""


def render_card(content: CardContent) -> str:
    """Return the text of the model card, with the results as a `model-index` that the Hub can read."""
    labels, training = list(content.labels), content.training
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=[*(["spam-detection", "sms"] if labels == SPAM_LABELS else []), "hf_spam"],
        model_name=MODEL_NAME,
        base_model=_hub_id(content.base_model),
        datasets=_hub_datasets(training) if training else None,
        eval_results=(_eval_results(training, macro=len(labels) > 2) or None) if training else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=MODEL_NAME,
        repo_id=PLACEHOLDER,
        content=content,
        custom_labels=None if labels == SPAM_LABELS else [in_markdown(label) for label in labels],
        positive=in_markdown(content.positive_label) if content.positive_label else None,
        example=SPAM_EXAMPLE if "spam" in map(str.lower, labels) else NEUTRAL_EXAMPLE,
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
        training=_training_context(training) if training else None,
    )
    return str(card)


def _hub_datasets(training: TrainingContent) -> list[str] | None:
    sources = [] if training.data is None else sources_of(training.data)
    return [HUB_DATASETS[source] for source in sources if source in HUB_DATASETS] or None


def _training_context(training: TrainingContent) -> dict[str, Any]:
    """Return the training part of the template's variables, formatted for Markdown."""
    recipe, base = training.recipe, training.recipe["base"]
    rows = {}
    for split, values in training.metrics.items():
        rows[split] = values
        if split in training.baseline:
            rows[f"{split}, baseline"] = training.baseline[split]
    if training.data is None:
        data = "messages passed in as a `DatasetDict`"
    else:
        data = ", ".join(DATA.get(one) or in_markdown(public(one)) for one in sources_of(training.data))
    return {
        "recipe": recipe,
        "data": data,
        "base": "random" if base == "random" else in_markdown(public(base)),
        "protocol": "" if training.data is None else PROTOCOLS[recipe["protocol"]],
        "metric_names": [name for name in METRICS if all(name in values for values in training.metrics.values())],
        "rows": rows,
        "settings": {name: _cell(public(value)) for name, value in recipe.items() if name not in NOT_SETTINGS},
    }


def _eval_results(training: TrainingContent, macro: bool) -> list[EvalResult]:
    """Return the results on the test split, or on the validation split if there is no test split."""
    split = next((name for name in ("test", "validation") if name in training.metrics), None)
    source = "own messages" if training.data is None else training.data
    results = []
    for name, title in METRICS.items():
        value = training.metrics.get(split, {}).get(name)
        if value is None:
            continue
        is_mean = macro and name in MACRO_AVERAGED
        result = EvalResult(
            task_type="text-classification",
            dataset_type=HUB_DATASETS.get(source, public(source)),
            dataset_name=public(source),
            dataset_split=split,
            dataset_config=None if training.data is None else training.recipe["protocol"],
            metric_type=name,
            metric_name=f"Macro {title}" if is_mean else title,
            metric_value=value,
            metric_args={"average": "macro"} if is_mean else None,
        )
        results.append(result)
    return results


def _hub_id(base_model: str | None) -> str | None:
    return None if base_model in (None, "random") or is_path(base_model) else base_model


def _cell(value: Any) -> Any:
    """Return a setting for a table cell, escaped if it contains characters that would break the table."""
    return in_markdown(value) if isinstance(value, str) and re.search("[`|<>]", value) else value
