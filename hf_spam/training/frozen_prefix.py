"""Blocks that are not trained, computed once: training and its evaluations start from what comes out of them.

With recipe `book` eleven of twelve blocks are frozen, and give the same output for a message in every epoch.
"""

import copy
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, get_int_from_env
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.modeling_outputs import SequenceClassifierOutput

from ..data.batching import EncodedMessages, PadRight, batch_tokens_for, token_batches
from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel
from .recipes import Recipe

logger = logging.getLogger(__name__)

# Settings with which even frozen blocks give another output at each step.
CHANGING = (
    "dropout",
    "attention_dropout",
    "case_augmentation",
    "digit_augmentation",
    "bpe_dropout",
    "adversarial_epsilon",
)
MEMORY_BUDGET = 2 * 2**30  # bytes of hidden states of a split, beyond which they are mapped from the disk


def frozen_blocks(model: SpamGPTForSequenceClassification, recipe: Recipe) -> int:
    """The number of blocks, from the first on, whose output for a message is the same at every step of the training.

    Whatever makes it another each time (dropout, augmentation, an adversary) is said in the log, and 0 returned.
    """
    gpt = model.gpt
    below = [gpt.tok_emb, gpt.pos_emb]
    frozen = 0
    for block in gpt.trf_blocks[:-1]:
        below.append(block)
        if any(parameter.requires_grad for layer in below for parameter in layer.parameters()):
            break
        frozen += 1
    if frozen and (found := [name for name in CHANGING if getattr(recipe, name)]):
        logger.info("The %d frozen blocks are computed at every step, because of %s.", frozen, " and ".join(found))
        return 0
    return frozen


class PrefixedMessages(Dataset):
    """Messages as the hidden states that enter the first block that is trained.

    Args:
        states: those of all messages, one after the other, (positions of all, C).
        starts: where each message begins among them, and the end.
        lengths: the number of real tokens of each message.
        labels: the class index of each message.
    """

    def __init__(self, states: torch.Tensor, starts: Sequence[int], lengths: Sequence[int], labels: Sequence[int]):
        self.states, self.starts, self.lengths, self.labels = states, starts, lengths, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        states = self.states[self.starts[index] : self.starts[index + 1]]
        return {"hidden_states": states, "lengths": self.lengths[index], "labels": self.labels[index]}


def collate_prefixed(examples: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Collates prefixed messages into `hidden_states` (B, L, C), zero where a message ends, `lengths` and `labels`."""
    states = nn.utils.rnn.pad_sequence([example["hidden_states"] for example in examples], batch_first=True)
    return {
        "hidden_states": states.float(),  # they may be kept in bfloat16; what is trained is float32
        "lengths": torch.tensor([example["lengths"] for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


class AfterPrefix(nn.Module):
    """The classifier from a block on; all modules are those of the model."""

    def __init__(self, model: SpamGPTForSequenceClassification, blocks: int):
        super().__init__()
        self.classifier = _copy_with(
            model,
            gpt=_copy_with(
                model.gpt, pos_emb=_Nothing(), drop_emb=nn.Identity(), trf_blocks=model.gpt.trf_blocks[blocks:]
            ),
        )

    def forward(self, hidden_states: torch.Tensor, lengths: torch.Tensor) -> SequenceClassifierOutput:
        """As that of the model, for the hidden states (B, L, C) that enter the block."""
        return self.classifier.read(hidden_states, lengths)


@torch.no_grad()
def compute_prefix(
    accelerator: Accelerator,
    model: SpamGPTForSequenceClassification,
    blocks: int,
    messages: EncodedMessages,
    name: str,
    dtype: torch.dtype = torch.float32,
) -> PrefixedMessages:
    """The output of the first blocks for all messages of a split, computed in `dtype`, in batches of like length.

    It is kept in memory or, beyond `MEMORY_BUDGET` or for several processes, which share the work, in a file that ends
    with them.
    """
    config = model.config
    limit = config.padded_length or config.n_positions
    real = [min(max(1, len(ids)), limit) for ids in messages.input_ids]
    read = [config.padded_length or length for length in real]
    starts = [0, *torch.tensor(read).cumsum(0).tolist()]
    states = _storage(accelerator, (starts[-1], config.n_embd), dtype)
    prefix: SpamGPTModel = _copy_with(model.gpt, trf_blocks=model.gpt.trf_blocks[:blocks], final_norm=nn.Identity())
    if dtype != torch.float32:
        prefix = copy.deepcopy(prefix).to(dtype)
    prefix.to(accelerator.device).eval()
    collate = PadRight(config.pad_token_id)
    batches = list(token_batches(read, batch_tokens_for(config, accelerator.device)))
    hidden = None if accelerator.is_local_main_process else True  # None: where there is no terminal
    own = batches[accelerator.local_process_index :: _processes_here(accelerator)]
    for chosen in tqdm(own, desc=f"Frozen blocks, {name}", unit="batch", disable=hidden):
        batch = collate([{"input_ids": messages.input_ids[i]} for i in chosen])
        tokens, lengths = model.lay_out(**{key: value.to(accelerator.device) for key, value in batch.items()})
        with accelerator.autocast():
            out = prefix(tokens, model.attention_mask(tokens, lengths)).last_hidden_state
        for i, row in zip(chosen, out.cpu(), strict=True):
            states[starts[i] : starts[i + 1]] = row[: read[i]]
    accelerator.wait_for_everyone()  # none reads what another has not written yet
    return PrefixedMessages(states, starts, real, messages.labels)


def _storage(accelerator: Accelerator, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Room for hidden states, in memory or in a file that loses its name at once: it ends with those who have it."""
    size = shape[0] * shape[1]
    here = _processes_here(accelerator)
    if here == 1 and size * dtype.itemsize <= MEMORY_BUDGET:
        return torch.empty(shape, dtype=dtype)
    names = [tempfile.mkdtemp(prefix="hf-spam-") if accelerator.is_main_process else ""]
    folder = Path(broadcast_object_list(names)[0])
    folder.mkdir(exist_ok=True)  # on other machines
    with accelerator.local_main_process_first():
        states = torch.from_file(str(folder / "states"), shared=True, size=size, dtype=dtype)
    accelerator.wait_for_everyone()
    if accelerator.is_local_main_process:
        shutil.rmtree(folder)
    return states.view(shape)


def _processes_here(accelerator: Accelerator) -> int:
    """Processes on this machine, which share its disk."""
    return get_int_from_env(["LOCAL_WORLD_SIZE"], accelerator.num_processes)


def _copy_with(module: nn.Module, **children: nn.Module) -> nn.Module:
    """A module that shares everything with another but these children."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **children}
    return twin


class _Nothing(nn.Module):
    """In the place of the position embedding, which is in the hidden states already."""

    def forward(self, positions: torch.Tensor) -> float:
        return 0.0
