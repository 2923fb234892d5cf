"""The model card of a run, and of a calibrated copy: text in `card_template.md`, data here."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.labels import LABEL_NAMES
from ..data.sources import OWN_DATA
from ..evaluation.baseline import ahead
from ..files import is_path, public, versions
from ..modeling.configuration_spam_gpt import class_names, spam_index
from ..text import in_markdown

if TYPE_CHECKING:
    from ..modeling.configuration_spam_gpt import SpamGPTConfig
    from ..training.calibration import Calibration
    from ..training.loop import Run

TEMPLATE = Path(__file__).with_name("card_template.md")
MODEL_NAME = "SpamGPT"
PLACEHOLDER = "path/to/this/model"  # in a card, until it is known which repository it goes to
SPAM_EXAMPLE = "You are a winner you have been specially selected to receive $1000 cash or a $2000 award."
EXAMPLE = "Hello, could you call me back after lunch? Thank you."  # for labels that may be about anything
ABOUT = ("name", "summary")  # of a recipe, what is no setting
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
        **_metadata(run.model.config),
        base_model=None if recipe.base == "random" or is_path(recipe.base) else recipe.base,
        datasets=HUB_ID.get(recipe.data),
        eval_results=results or None,
    )
    compared = [name for name in run.metrics if name in run.baseline]
    return _filled_in(
        card_data,
        run.model.config,
        run.calibration,
        "of the validation split",
        plots=plots,
        recipe=recipe,
        protocol="" if own else PROTOCOLS[recipe.protocol],
        metric_names=metric_names,
        metrics=_beside(run.metrics, run.baseline),
        verdicts=[
            f"On {name}, {ahead(run.metrics[name]['f1'], run.baseline[name]['f1'], run.model.config.threshold)}."
            for name in compared
        ],
        data=DATA.get(recipe.data) or in_markdown(public(recipe.data)),
        trained_before=run.history.trained_before,
        base="random" if recipe.base == "random" else in_markdown(public(recipe.base)),
        parameters=f"{run.model.num_parameters():,}",
        trained=f"{run.trained:,}",
        examples_seen=f"{run.history.examples_seen:,}",
        seconds=round(run.history.seconds),
        settings={name: _cell(public(value)) for name, value in asdict(recipe).items() if name not in ABOUT},
    )


def render_copy_card(
    config: "SpamGPTConfig", calibration: "Calibration", *, original: str, base_model: str | None, fitted_on: str
) -> str:
    """The text of the card of a copy that was calibrated on other messages: it has no results but those of that.

    Args:
        config: the copy's.
        calibration: what was fitted.
        original: what the copy is of, in words.
        base_model: its Hub id, if it has one.
        fitted_on: what the messages are called, such as "of `mine.csv`".
    """
    card_data = ModelCardData(**_metadata(config), base_model=base_model)
    return _filled_in(card_data, config, calibration, fitted_on, recipe=None, original=original)


def _metadata(config: "SpamGPTConfig") -> dict[str, Any]:
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": [*(["spam-detection", "sms"] if class_names(config) == LABEL_NAMES else []), "hf_spam"],
        "model_name": MODEL_NAME,
    }


def _filled_in(
    card_data: ModelCardData,
    config: "SpamGPTConfig",
    calibration: "Calibration | None",
    fitted_on: str,
    **about: Any,
) -> str:
    """The template with what every card says, and what it says about a run or a copy."""
    names = class_names(config)
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        model_name=MODEL_NAME,
        repo_id=PLACEHOLDER,
        names=None if names == LABEL_NAMES else [in_markdown(name) for name in names],
        positive=in_markdown(names[spam_index(names)]) if len(names) == 2 else None,
        example=SPAM_EXAMPLE if "spam" in map(str.lower, names) else EXAMPLE,
        calibration=calibration.in_words(fitted_on, in_markdown) if calibration else [],
        fitted_on=fitted_on,
        threshold=config.threshold,
        spam=in_markdown(calibration.spam) if calibration and calibration.spam else None,
        is_calibrated=config.temperature != 1,
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
        **about,
    )
    return str(card)


def _cell(value: Any) -> Any:
    """A setting in a table: the name of a column, say, may hold what would end a cell."""
    return in_markdown(value) if isinstance(value, str) and re.search("[`|<>]", value) else value


def _beside(metrics: dict[str, dict], baseline: dict[str, dict]) -> dict[str, dict]:
    """The rows of the table of results: each split's, and below it those of the baseline."""
    rows = {}
    for split, values in metrics.items():
        rows[split] = values
        if split in baseline:
            rows[f"{split}, baseline"] = baseline[split]
    return rows
