"""The model card of a run: text in `card_template.md`, data here."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCard, ModelCardData

if TYPE_CHECKING:
    from ..training.loop import Run

TEMPLATE = Path(__file__).with_name("card_template.md")
MODEL_NAME = "SpamGPT"
DATA = {
    "uci": "the [SMS Spam Collection](https://doi.org/10.24432/C5CC84) (Almeida and Gómez Hidalgo 2011; CC BY 4.0)",
    "sample": "the sample messages that come with hf_spam",
}
PROTOCOLS = {
    "book": "The splits are the book's, balanced, and leak: some messages of the test split stand in the training "
    "split word for word.",
    "full": "Every message is in one split, and messages that are alike are in the same one.",
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


def render_card(run: "Run", repo_id: str = "path/to/this/model") -> str:
    """The text of the card, with the results as a `model-index` that the Hub reads.

    Args:
        run: the finished run.
        repo_id: what a reader passes to `pipeline`.
    """
    recipe = run.recipe
    split = next((name for name in ("test", "validation") if name in run.metrics), "train")
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=recipe.data,
            dataset_name=recipe.data,
            dataset_split=split,
            dataset_config=recipe.protocol,
            metric_type=name,
            metric_name=CARD_METRICS[name],
            metric_value=value,
        )
        for name, value in run.metrics[split].items()
        if name in CARD_METRICS and value is not None
    ]
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["spam-detection", "sms", "hf_spam"],
        base_model=recipe.base if recipe.base.count("/") == 1 and not Path(recipe.base).exists() else None,
        model_name=MODEL_NAME,
        eval_results=results,
    )
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in run.model.parameters()]
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        model_name=MODEL_NAME,
        repo_id=repo_id,
        recipe=recipe,
        protocol=PROTOCOLS[recipe.protocol],
        metric_names=list(CARD_METRICS),
        metrics=run.metrics,
        data=DATA.get(recipe.data, f"`{Path(recipe.data).name}`"),
        base="random" if recipe.base == "random" else f"`{recipe.base}`",
        parameters=f"{sum(size for size, _ in sizes):,}",
        trained=f"{sum(size for size, trained in sizes if trained):,}",
        examples_seen=f"{run.history.examples_seen:,}",
        seconds=round(run.history.seconds),
        settings={name: value for name, value in asdict(recipe).items() if name not in ("name", "summary")},
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate", "tokenizers")),
    )
    return str(card)
