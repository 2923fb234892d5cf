"""A GPT written from scratch that tells spam from not spam and works with the Hugging Face ecosystem."""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from .conversion.import_weights import import_weights as import_weights
    from .data.sources import load_sms_spam as load_sms_spam
    from .evaluation.metrics import SpamMetrics as SpamMetrics
    from .inference.classifier import SpamClassifier as SpamClassifier
    from .inference.classifier import classify_text as classify_text
    from .modeling.configuration_spam_gpt import SpamGPTConfig as SpamGPTConfig
    from .modeling.modeling_spam_gpt import SpamGPTForSequenceClassification as SpamGPTForSequenceClassification
    from .modeling.modeling_spam_gpt import SpamGPTModel as SpamGPTModel
    from .modeling.pipeline_spam_gpt import SpamPipeline as SpamPipeline
    from .training.finetune import finetune as finetune
    from .training.finetune import pretrain_base as pretrain_base
    from .training.recipes import RECIPES as RECIPES
    from .training.settings import Recipe as Recipe

__version__ = "0.1.0"

# Module of each public name. Names are imported on first use, so `import hf_spam` takes milliseconds and
# `hf-spam --help` does not load torch.
_MODULES = {
    "RECIPES": "training.recipes",
    "Recipe": "training.settings",
    "SpamClassifier": "inference.classifier",
    "SpamGPTConfig": "modeling.configuration_spam_gpt",
    "SpamGPTForSequenceClassification": "modeling.modeling_spam_gpt",
    "SpamGPTModel": "modeling.modeling_spam_gpt",
    "SpamMetrics": "evaluation.metrics",
    "SpamPipeline": "modeling.pipeline_spam_gpt",
    "classify_text": "inference.classifier",
    "finetune": "training.finetune",
    "import_weights": "conversion.import_weights",
    "load_sms_spam": "data.sources",
    "pretrain_base": "training.finetune",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])


# The Auto classes and the pipeline are registered as soon as `transformers` loads its own, whether that happens before
# or after this package is imported. Registering them right here would be simpler, but `--help` would take seconds.
# Our modules import some of `transformers`, which import one another, so any of them may be the first. Once a module on
# the left is imported, the one on the right is, too, and its classes are registered as soon as it is complete.
for _module, _next in {
    "transformers.models.auto.modeling_auto": "transformers.modeling_layers",
    "transformers.modeling_layers": "hf_spam.modeling.modeling_spam_gpt",
    "transformers.pipelines": "hf_spam.modeling.pipeline_spam_gpt",
}.items():
    wrapt.register_post_import_hook(lambda _, name=_next: importlib.import_module(name), _module)


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _register_config(auto: Any) -> None:
    from .modeling.configuration_spam_gpt import SpamGPTConfig

    auto.AutoConfig.register(SpamGPTConfig.model_type, SpamGPTConfig, exist_ok=True)


@wrapt.when_imported("hf_spam.modeling.modeling_spam_gpt")
def _register_models(modeling: Any) -> None:
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForSequenceClassification

    for auto, model in (
        (AutoModel, modeling.SpamGPTModel),
        (AutoModelForSequenceClassification, modeling.SpamGPTForSequenceClassification),
    ):
        auto.register(model.config_class, model, exist_ok=True)


@wrapt.when_imported("hf_spam.modeling.pipeline_spam_gpt")
def _register_pipeline(ours: Any) -> None:
    from transformers.models.auto.modeling_auto import AutoModelForSequenceClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    PIPELINE_REGISTRY.register_pipeline(
        "spam-classification", pipeline_class=ours.SpamPipeline, pt_model=AutoModelForSequenceClassification
    )
