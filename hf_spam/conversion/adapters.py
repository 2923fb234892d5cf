"""Read a LoRA adapter that PEFT saved (Hu et al. 2021), and merge it into its base model.

As with models, the folder is not trusted: only JSON and safetensors files are read, and no code is run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..extras import import_extra

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk."""

    folder: Path
    base: str  # folder or Hub id of the model it was trained for
    revision: str | None  # branch, tag or commit of the base on the Hub
    tensors: Mapping[str, torch.Tensor]

    @property
    def head(self) -> dict[str, torch.Tensor]:
        """Tensors of the adapter's own classification head by their names in the model; empty without one."""
        names = {name.removeprefix(PREFIX): name for name in self.tensors}
        return {name: self.tensors[full] for name, full in names.items() if name.startswith("out_head.")}


def read_adapter(folder: Path) -> Adapter | None:
    """Read the adapter in a folder; return `None` if there is none, or if it is next to a whole model.

    One that is not complete, cannot be merged, or does not name its base, raises a `ValueError`.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file() or any(folder.glob("model*.safetensors*")):
        return None
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except Exception as error:  # reading an untrusted file can raise anything
        raise ValueError(f"the adapter cannot be read (an {ADAPTER_WEIGHTS} is needed): {error}") from error
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if (kind := settings.get("peft_type")) != "LORA":
        raise ValueError(f"it is an adapter of type {kind!r}, not 'LORA': merge it with PEFT's merge_and_unload()")
    if settings.get("megatron_config"):  # PEFT would import a module that the file names
        raise ValueError(f"{ADAPTER_CONFIG} sets megatron_config, which is not supported")
    if not isinstance(base, str) or not base or not isinstance(revision, str | None):
        raise ValueError(f"set base_model_name_or_path in its {ADAPTER_CONFIG} to the folder or Hub id of the base")
    return Adapter(folder, base, revision, tensors)


def merge(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """Merge an adapter into its base; the model is changed in place."""
    peft = import_extra("peft", "lora", "an adapter")
    adapted = peft.PeftModel.from_pretrained(model, adapter.folder)
    expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    if misfits := sorted(expected ^ adapter.tensors.keys()):
        raise ValueError(f"the adapter does not fit its base {adapter.base!r}: {misfits[0]} is missing in one of them")
    return adapted.merge_and_unload()
