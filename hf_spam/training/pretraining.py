"""Pretrain a GPT as a language model (the book, chapter 5) on the messages that it will classify.

Predicting every next token teaches a network more about a message than its label does (Dai and Le 2015,
*Semi-supervised Sequence Learning*).
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import count
from statistics import mean

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm
from transformers import get_scheduler

from ..data.batching import pad_batch
from ..memory import keep_freed_memory
from ..modeling.modeling_spam_gpt import SpamGPTModel
from .evaluator import DIVERGED
from .loaders import SeededShuffle
from .setup import Setup

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
WARMUP_STEPS = 200
MEAN_OVER = 100  # steps whose mean loss is shown


def pretrain(setup: Setup, accelerator: Accelerator) -> list[float]:
    """Train the network to predict the next token of the training messages; return the loss of each step, in nats.

    The scores of the next token are the products of a hidden state with the token embeddings, as in GPT-2. Each process
    does the same work.
    """
    recipe, texts, losses = setup.recipe, setup.splits["train"]["text"][:], []
    if len(texts) < BATCH_SIZE:
        raise ValueError(f"{len(texts)} messages do not fill one batch of {BATCH_SIZE} for pretraining.")
    gpt, steps = setup.model.gpt, recipe.pretraining_steps
    gpt.to(accelerator.device).train()
    keep_freed_memory()
    rate, warmup = recipe.pretraining_learning_rate, min(WARMUP_STEPS, steps // 10)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=rate, weight_decay=recipe.weight_decay, fused=True)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    torch.manual_seed(recipe.seed)  # of dropout
    batches = _batches(setup, texts)
    hidden = not accelerator.is_local_main_process or None  # None: show it on a terminal only
    for _ in (bar := tqdm(range(steps), desc="Pretraining", unit="step", disable=hidden)):
        batch = {name: tensor.to(accelerator.device) for name, tensor in next(batches).items()}
        with accelerator.autocast():
            loss = next_token_loss(gpt, **batch)
        if not loss.isfinite():
            raise ValueError(f"The loss is {loss.item()} in pretraining step {len(losses) + 1}. {DIVERGED}")
        loss.backward()
        if recipe.max_grad_norm is not None:
            clip_grad_norm_(gpt.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
        if len(losses) % MEAN_OVER == 0:
            bar.set_postfix(loss=f"{mean(losses[-MEAN_OVER:]):.3f}")
    logger.info("Pretrained for %d steps: loss %.3f per token.", steps, mean(losses[-MEAN_OVER:]))
    return losses


def next_token_loss(gpt: SpamGPTModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over all next tokens of a batch, in nats; 0 if no message has a second token.

    `input_ids` and `attention_mask` are padded on the right, (B, T).
    """
    hidden = gpt(input_ids=input_ids).last_hidden_state[:, :-1]  # pads come after the message, and are not attended to
    predicts = attention_mask[:, 1:].bool()  # the next token is real
    if not predicts.any():
        return hidden.sum() * 0
    logits = hidden[predicts] @ gpt.tok_emb.weight.T  # (tokens, C) @ (C, V) -> (tokens, V)
    return cross_entropy(logits.float(), input_ids[:, 1:][predicts])


def _batches(setup: Setup, texts: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of messages of similar length, with new augmentation in each pass; never ends."""
    config, seed = setup.model.config, setup.recipe.seed
    rng = torch.Generator().manual_seed(seed)
    sampler = SeededShuffle(len(texts), BATCH_SIZE, rng, [len(text) for text in texts])
    for epoch in count(1):
        order = list(sampler)
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            ids = [
                setup.augmentation.encode(texts[i], f"{seed} pretraining {epoch} {i}", config.n_positions)
                for i in order[start : start + BATCH_SIZE]
            ]
            yield pad_batch(ids, config.pad_token_id)
