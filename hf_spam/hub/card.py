"""The cards of a trained model, of a calibrated copy and of an export, rendered from plain data.

The texts are in `card_template.md` and `export_card_template.md`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.names import sources_of
from ..files import is_path, public, versions
from ..text import in_markdown
from .merging import split_card

PLACEHOLDER = "path/to/this/model"  # replaced by the repository's id when a card is pushed
SPAM_LABELS = ["not spam", "spam"]
SPAM_EXAMPLE = "You are a winner you have been specially selected to receive $1000 cash or a $2000 award."
NEUTRAL_EXAMPLE = "Hello, could you call me back after lunch? Thank you."  # for labels about any topic
DATA = {
    "uci": "the [SMS Spam Collection](https://doi.org/10.24432/C5CC84) (Almeida and Gómez Hidalgo, 2011; CC BY 4.0)",
    "sample": "the sample messages included in hf_spam (MIT)",
    "marketing": "the marketing messages included in hf_spam (MIT)",
}
HUB_DATASETS = {"uci": "ucirvine/sms_spam"}
INHERITED = ("license", "license_name", "license_link", "language", "datasets")  # metadata of a model and its copies
METRICS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC AUC",
    "false_positive_rate": "False-positive rate",
}
HUB_METRICS = {name: name for name in METRICS if name != "false_positive_rate"} | {"mcc": "matthews_correlation"}
MACRO_AVERAGED = ("precision", "recall", "f1")  # with more than two classes

Metrics = Mapping[str, Mapping[str, float | None]]


def render_card(
    *,
    labels: Sequence[str],
    positive_label: str | None = None,
    base_model: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    data: str | None = None,
    metrics: Metrics = MappingProxyType({}),
    baseline: Metrics = MappingProxyType({}),
    metadata: Mapping[str, Any] = MappingProxyType({}),
    **facts: Any,
) -> str:
    """Return the text of the model card, with the results as a `model-index` that the Hub can read.

    A trained model has a `recipe` (all its fields); a recalibrated copy of `base_model` has none. `data` is `None` for
    a `DatasetDict` passed from Python. Local paths are shortened to their last component, and a `base_model` that is
    one is left out. `metadata` has values for the keys in `INHERITED`. `facts` are the other variables of the template.
    """
    sources = sources_of(data or ())
    own_language = "multilingual" if {"sample", "marketing"} & set(sources) else None
    known = {
        "library_name": "transformers",
        "base_model": hub_id(base_model),
        "language": "en" if set(sources) == {"uci"} else own_language,
        "datasets": [HUB_DATASETS[one] for one in sources if one in HUB_DATASETS] or None,
        "metrics": [HUB_METRICS[name] for name in HUB_METRICS if any(name in one for one in metrics.values())] or None,
        "eval_results": _eval_results(recipe, data, metrics, macro=len(labels) > 2) or None,
    }
    known |= {key: value for key, value in metadata.items() if value}
    facts |= {"copy_of": _original(base_model)} if recipe is None else _training_facts(recipe, data, metrics, baseline)
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in versions().items())
    return _render("card_template.md", labels, positive_label, known, recipe=recipe, **facts)


def render_export_card(
    certificate: Mapping[str, Any],
    *,
    source: str,
    labels: Sequence[str],
    positive_label: str | None = None,
    metadata: Mapping[str, Any] = MappingProxyType({}),
    **facts: Any,
) -> str:
    """Return the text of the card of an export of the model `source`.

    `certificate` is the content of `parity.json`. `facts` are the other variables of the template: `max_tokens`, the
    `threshold` of the original, whether its scores are `calibrated`, and whether there is a `handler`.
    """
    is_onnx = certificate["format"] == "onnx"
    about = {"library_name": "transformers.js" if is_onnx else "transformers", "base_model": hub_id(source), **metadata}
    if about["base_model"] and is_onnx:
        about["base_model_relation"] = "quantized"  # the Hub has no word for a mere conversion
    facts |= {**certificate, "data": _describe(certificate["data"]), "copy_of": _original(source)}
    tags = ["onnx"] if is_onnx else []
    return _render("export_card_template.md", labels, positive_label, about, tags=tags, **facts)


def inherited(card: Path | None) -> dict[str, Any]:
    """Return the metadata in the card of a model that a copy of it keeps, see `INHERITED`."""
    metadata, _ = split_card(card.read_text(encoding="utf-8", errors="replace")) if card else ({}, "")
    return {key: metadata[key] for key in INHERITED if key in metadata}


def hub_id(model: str | None) -> str | None:
    """Return a model if it is on the Hub, as far as its name says."""
    return None if model in (None, "random", "bundled") or is_path(model) else model


def _original(source: str) -> str:
    """Return the model of a copy for Markdown."""
    return "the bundled model" if source == "bundled" else in_markdown(public(source))


def _describe(data: str) -> str:
    """Return one or several sources of messages for Markdown."""
    return ", ".join(DATA.get(one) or in_markdown(public(one)) for one in sources_of(data))


def _render(
    template: str,
    labels: Sequence[str],
    positive_label: str | None,
    metadata: Mapping[str, Any],
    *,
    tags: Sequence[str] = (),
    **facts: Any,
) -> str:
    """Render a template with the metadata and the variables that the card of any model has."""
    is_spam_filter, has_spam = list(labels) == SPAM_LABELS, "spam" in map(str.lower, labels)
    examples = [SPAM_EXAMPLE, NEUTRAL_EXAMPLE] if has_spam else [NEUTRAL_EXAMPLE]
    card = ModelCard.from_template(
        ModelCardData(
            pipeline_tag="text-classification",
            tags=[*(["spam-detection", "sms"] if is_spam_filter else []), *tags, "hf_spam"],
            model_name="SpamGPT",
            widget=[{"text": text} for text in examples],
            **metadata,
        ),
        template_path=str(Path(__file__).with_name(template)),
        repo_id=PLACEHOLDER,
        custom_labels=None if is_spam_filter else [in_markdown(label) for label in labels],
        positive=in_markdown(positive_label) if positive_label else None,
        example=examples[0],
        **facts,
    )
    return str(card)


def _training_facts(recipe: Mapping[str, Any], data: str | None, metrics: Metrics, baseline: Metrics) -> dict[str, Any]:
    """Return the variables of the template that describe the training, formatted for Markdown."""

    def setting(value: Any) -> Any:
        return in_markdown(public(value)) if isinstance(value, str) else value

    rows = {}
    for split, values in metrics.items():
        rows[split] = values
        if split in baseline:
            rows[f"{split}, baseline"] = baseline[split]
    return {
        "data": _describe(data) if data else "messages passed in as a `DatasetDict`",
        "base": "random" if recipe["base"] == "random" else in_markdown(public(recipe["base"])),
        "protocol": None if data is None else recipe["protocol"],
        "metric_names": [name for name in METRICS if all(name in values for values in metrics.values())],
        "rows": rows,
        "settings": {name: setting(value) for name, value in recipe.items() if name not in ("name", "summary")},
    }


def _eval_results(
    recipe: Mapping[str, Any] | None, data: str | None, metrics: Metrics, macro: bool
) -> list[EvalResult]:
    """Return the results on the test split, or on the validation split if there is no test split."""
    split = next((name for name in ("test", "validation") if name in metrics), None)
    source = "own messages" if data is None else data
    if recipe and recipe.get("replay_messages"):  # corrections are all trained on
        source = recipe["replay"]
    macro_averaged = MACRO_AVERAGED if macro else ()
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=HUB_DATASETS.get(source, public(source)),
            dataset_name=public(source),
            dataset_split=split,
            dataset_config=None if data is None else recipe["protocol"],
            metric_type=HUB_METRICS.get(name, name),
            metric_name=f"Macro {title}" if name in macro_averaged else title,
            metric_value=metrics[split][name],
            metric_args={"average": "macro"} if name in macro_averaged else None,
        )
        for name, title in METRICS.items()
        if metrics.get(split, {}).get(name) is not None
    ]
