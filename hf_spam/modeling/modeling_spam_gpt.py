"""SpamGPT: GPT-2 written out, with a head that classifies text messages.

The network is that of Radford et al. 2019 (*Language Models are Unsupervised Multitask Learners*), with the module
names of Raschka, *Build a Large Language Model (From Scratch)*, chapters 4 to 6. Attention, masks, checkpointing and
loading are the `transformers` library's. Shapes: B messages, T positions, C = n_embd, H = n_head, D = C / H.

This file travels to the Hub as remote code: it imports its sibling files and public libraries only.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import is_torchdynamo_exporting
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_spam_gpt import SpamGPTConfig

if TYPE_CHECKING:
    # Not used here: the library looks for such lines, and takes the files that they name along with this one.
    from .pipeline_spam_gpt import SpamPipeline as SpamPipeline


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention step by step, the only implementation that can return its weights."""
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, T, D) @ (B, H, D, T) -> (B, H, T, T)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    context = weights @ value  # (B, H, T, T) @ (B, H, T, D) -> (B, H, T, D)
    return context.transpose(1, 2).contiguous(), weights


class MultiHeadAttention(nn.Module):
    def __init__(self, config: SpamGPTConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.n_embd // config.n_head
        self.scaling = self.head_dim**-0.5
        self.is_causal = config.causal  # read by the attention interface where it builds no mask
        self.W_query = nn.Linear(config.n_embd, config.n_embd, bias=config.qkv_bias)
        self.W_key = nn.Linear(config.n_embd, config.n_embd, bias=config.qkv_bias)
        self.W_value = nn.Linear(config.n_embd, config.n_embd, bias=config.qkv_bias)
        self.out_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self, x: torch.Tensor, attention_mask: torch.Tensor | None = None, x_query: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        def heads(t: torch.Tensor) -> torch.Tensor:
            return t.view(*t.shape[:2], -1, self.head_dim).transpose(1, 2)  # (B, T, C) -> (B, H, T, D)

        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        settings = {"scaling": self.scaling, "dropout": self.config.attn_pdrop if self.training else 0.0, **kwargs}
        query = heads(self.W_query(x if x_query is None else x_query))
        if x_query is None or not self._can_absorb(x):
            key, value = heads(self.W_key(x)), heads(self.W_value(x))
            context, weights = attend(self, query, key, value, attention_mask, **settings)  # (B, T, H, D)
        else:
            # For one query it is less to multiply it, and its context, than every position: q (W_key x) = (q W_key) x.
            query = torch.einsum("bhtd,hdc->bthc", query, self._by_head(self.W_key))  # (B, 1, H, C)
            if self.W_key.bias is not None:
                # The bias adds the same to all scores, which changes no weight. Its gradient is 0; DDP waits for it.
                query = query + 0 * self.W_key.bias.sum()
            # The heads look at the same positions now, as if each were a query of a single head.
            context, weights = attend(self, query, x[:, None], x[:, None], attention_mask, **settings)  # (B, H, 1, C)
            context = torch.einsum("bhtc,hdc->bthd", context, self._by_head(self.W_value))  # (B, 1, H, D)
            if self.W_value.bias is not None:
                context = context + self.W_value.bias.view(-1, self.head_dim)
        return self.out_proj(context.flatten(2)), weights

    def _by_head(self, linear: nn.Linear) -> torch.Tensor:
        return linear.weight.view(-1, self.head_dim, linear.in_features)  # (C, C) -> (H, D, C)

    def _can_absorb(self, x: torch.Tensor) -> bool:
        """Whether the weights of keys and values may be used without calling their modules (as in DeepSeek-V2, 2024).

        Not where something wraps, watches, quantises, shards or offloads them; not where the dropout of the attention
        would leave out a part of the values' bias; and an exported graph keeps products with constant matrices, which
        can be quantised.
        """
        drops = self.training and self.config.attn_pdrop > 0
        return not (drops or is_torchdynamo_exporting()) and all(
            type(linear) is nn.Linear
            and type(linear.weight) is nn.Parameter
            and linear.weight.device == x.device
            and not (linear._forward_hooks or linear._forward_pre_hooks)
            for linear in (self.W_key, self.W_value)
        )


class FeedForward(nn.Module):
    def __init__(self, config: SpamGPTConfig):
        super().__init__()
        n_inner = config.n_inner if config.n_inner is not None else 4 * config.n_embd
        self.layers = nn.Sequential(
            nn.Linear(config.n_embd, n_inner),
            nn.GELU(approximate="tanh"),  # GPT-2's "gelu_new"
            nn.Linear(n_inner, config.n_embd),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class TransformerBlock(GradientCheckpointingLayer):
    def __init__(self, config: SpamGPTConfig, layer_idx: int):
        super().__init__()
        self.att = MultiHeadAttention(config, layer_idx)
        self.ff = FeedForward(config)
        self.norm1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.norm2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.drop_shortcut = nn.Dropout(config.resid_pdrop)

    def forward(
        self,
        x: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        read_at: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        normed = self.norm1(x)
        if read_at is None:
            context, _ = self.att(normed, attention_mask, **kwargs)
        else:  # keys and values come from every position, all else is needed at one only
            context, _ = self.att(normed, attention_mask, x_query=_at(normed, read_at)[:, None], **kwargs)
            x = _at(x, read_at)[:, None]  # (B, T, C) -> (B, 1, C)
        x = x + self.drop_shortcut(context)
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


def _at(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The vector of one position of each message: (B, T, C), (B,) -> (B, C)."""
    return x[torch.arange(x.shape[0], device=x.device), positions]


class SpamGPTPreTrainedModel(PreTrainedModel):
    """What both models share: how they are initialised, and what they can do."""

    config_class = SpamGPTConfig
    config: SpamGPTConfig
    base_model_prefix = "gpt"
    supports_gradient_checkpointing = True
    # Trainer would otherwise take `**kwargs` for a loss over all accumulated items, and scale it wrongly.
    accepts_loss_kwargs = False
    _no_split_modules: ClassVar = ["TransformerBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar = {"hidden_states": TransformerBlock, "attentions": MultiHeadAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and module is getattr(self, "out_head", None):
            # A fresh head starts as `nn.Linear` does: the book replaces GPT-2's head by a new module.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)


class SpamGPTModel(SpamGPTPreTrainedModel):
    """The bare GPT: token ids in, the hidden state of every position out.

    Positions are counted over the real tokens, so that a message padded on the left or on the right has the same
    hidden states.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: SpamGPTConfig):
        super().__init__(config)
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos_emb = nn.Embedding(config.n_positions, config.n_embd)
        self.drop_emb = nn.Dropout(config.embd_pdrop)
        self.trf_blocks = nn.ModuleList([TransformerBlock(config, i) for i in range(config.n_layer)])
        self.final_norm = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.tok_emb

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.tok_emb = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        read_at: torch.LongTensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Runs the network.

        Args:
            input_ids: token ids, (B, T) with T at most `n_positions`.
            attention_mask: (B, T), 1 for real tokens and 0 for pads. `None`: all are real.
            inputs_embeds: token embeddings, (B, T, C), in place of `input_ids`.
            read_at: (B,), the one position of each message whose last hidden state is wanted, and which sees what is
                before it, or all where the model is not causal. The last block then computes no other, and
                `last_hidden_state` is (B, 1, C). For "sdpa" and "eager" attention, and messages padded on the right.
            kwargs: `output_hidden_states`, `output_attentions` (with `attn_implementation="eager"`), `return_dict`,
                and arguments of the attention implementation.

        Returns:
            `last_hidden_state` (B, T, C), after the final norm.

        Raises:
            ValueError: neither or both of `input_ids` and `inputs_embeds`, or more than `n_positions` positions.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        tokens = self.tok_emb(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        if tokens.shape[1] > self.config.n_positions:
            raise ValueError(f"{tokens.shape[1]} tokens, but the model has {self.config.n_positions} positions.")
        if attention_mask is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]  # (1, T)
        else:
            positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)  # (B, T)
        mask = create_causal_mask(self.config, tokens, attention_mask, past_key_values=None)
        x = self.drop_emb(tokens + self.pos_emb(positions))
        *earlier, last = self.trf_blocks
        for block in earlier:
            x = block(x, mask, **kwargs)
        if read_at is not None:
            mask = self._mask_of_one(mask, read_at, x)
        x = last(x, mask, read_at, **kwargs)
        return BaseModelOutput(last_hidden_state=self.final_norm(x))

    def _mask_of_one(self, mask: torch.Tensor | None, read_at: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The attention mask of the single query at `read_at`: (B, 1, 1, T)."""
        if not self.config.causal:
            return None if mask is None else mask[:, :, :1]  # all rows are alike: what is a pad
        seen = (torch.arange(x.shape[1], device=x.device) <= read_at[:, None])[:, None, None]
        if self.config._attn_implementation == "eager":  # which adds its mask
            return torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, torch.finfo(x.dtype).min)
        return seen


class SpamGPTForSequenceClassification(SpamGPTPreTrainedModel):
    """A GPT that classifies a message from the hidden state of one position (`config.pooling`).

    The model owns how a message is laid out (see `_lay_out`): the same message has the same logits alone, in any batch,
    and padded on either side; an empty one has an answer, and of one that is too long the first tokens count.
    """

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: SpamGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.gpt = SpamGPTModel(config)
        self.out_head = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Classifies a batch of messages.

        Args:
            input_ids: token ids, (B, T), any T, padded on any side.
            attention_mask: (B, T), 1 for real tokens and 0 for pads. `None`: every id but `pad_token_id` is real.
            inputs_embeds: token embeddings, (B, T, C), in place of `input_ids`; without a mask all are real.
            labels: (B,), class indices.
            kwargs: as for `SpamGPTModel`.

        Returns:
            `logits` (B, num_labels), and with `labels` the `loss`, their mean cross-entropy. Hidden states and
            attentions, where asked for, are those of the messages as laid out.

        Raises:
            ValueError: neither or both of `input_ids` and `inputs_embeds`, or a mask of another shape.
        """
        return self.read(*self.lay_out(input_ids, attention_mask, inputs_embeds), labels, **kwargs)

    def lay_out(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch as the network reads it, arguments as for `forward`.

        Returns:
            Ids (B, L) or embeddings (B, L, C), and the number of real tokens of each message (B,), which come first.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            tokens = input_ids.long()  # a tokenizer's tensor for an empty message is of type float
            if attention_mask is None:
                attention_mask = tokens != self.config.pad_token_id
            pad = tokens.new_tensor(self.config.pad_token_id)
        else:
            tokens = inputs_embeds
            if attention_mask is None:
                attention_mask = tokens.new_ones(tokens.shape[:2])
            # Looked up, not taken from the weight, which offloading or sharding may keep elsewhere.
            pad = torch.tensor(self.config.pad_token_id, device=tokens.device)
            pad = self.gpt.tok_emb(pad).to(tokens.dtype)
        return self._lay_out(tokens, attention_mask, pad)

    def read(
        self, tokens: torch.Tensor, lengths: torch.Tensor, labels: torch.LongTensor | None = None, **kwargs
    ) -> SequenceClassifierOutput:
        """Classifies messages that are laid out: `lay_out` and this are the two halves of `forward`."""
        position = self._position(lengths, tokens.shape[1])
        reads_one = position is not None and self._shows_only_logits(kwargs)
        outputs = self.gpt(
            **{"input_ids" if tokens.ndim == 2 else "inputs_embeds": tokens},
            attention_mask=self.attention_mask(tokens, lengths, **kwargs),
            read_at=position if reads_one else None,
            return_dict=True,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if position is None:
            pooled = self._mean(hidden, lengths)
        else:
            pooled = hidden[:, 0] if reads_one else _at(hidden, position)
        logits = self.out_head(pooled)  # (B, C) -> (B, num_labels)
        if self.config.temperature != 1:
            logits = logits / self.config.temperature
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _lay_out(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor, pad: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Moves the real tokens to the front, writes `pad` everywhere else, and pads or cuts to the length to read.

        Takes ids (B, T) or embeddings (B, T, C); returns them as (B, L) or (B, L, C), and the number of real tokens
        among them (B,), at least 1: an empty message is read as one pad.
        """
        if attention_mask.shape != tokens.shape[:2]:
            shapes = f"{tuple(attention_mask.shape)}, the tokens are {tuple(tokens.shape[:2])}"
            raise ValueError(f"attention_mask is {shapes}: it must have one entry for each of them.")
        real = attention_mask.bool()
        T = real.shape[1]
        # Real tokens first, each in order. Not `T * ~real`, which has no ONNX form where T is any number.
        order = (torch.arange(T, device=real.device) + torch.where(real, 0, T)).argsort(dim=1)
        if tokens.ndim == 3:
            order, real = order[..., None].expand_as(tokens), real[..., None]
        tokens = torch.where(real, tokens, pad).gather(1, order)
        limit = self.config.padded_length
        missing = limit if limit is not None else int(T == 0)
        if missing:
            pads = pad.expand(tokens.shape[0], missing, *tokens.shape[2:])
            tokens = torch.cat([tokens, pads], dim=1)
        tokens = tokens[:, : limit if limit is not None else self.config.n_positions]
        lengths = attention_mask.bool().sum(1).clamp(1, tokens.shape[1])
        return tokens, lengths

    def attention_mask(self, tokens: torch.Tensor, lengths: torch.Tensor, **kwargs) -> torch.Tensor | None:
        """The mask (B, L) of messages that are laid out; None where nothing is to be masked."""
        if self.config.padded_length is None and not kwargs.get("is_causal", self.config.causal):
            return torch.arange(tokens.shape[1], device=lengths.device) < lengths[:, None]
        return None  # pads count, or they follow the tokens and are never seen

    def _position(self, lengths: torch.Tensor, L: int) -> torch.Tensor | None:
        """The position of each message that is classified, (B,); None where all are averaged."""
        match self.config.pooling:
            case "mean":
                return None
            case "first":
                return torch.zeros_like(lengths)
            case "last" if self.config.padded_length is not None:
                return torch.full_like(lengths, L - 1)
            case _:  # "last_token", and "last" where no pad is part of the message
                return lengths - 1

    def _mean(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The average over the positions of each message: (B, L, C) -> (B, C)."""
        if self.config.padded_length is not None:
            return hidden.mean(1)
        real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]  # (B, L)
        return torch.where(real[..., None], hidden, 0).sum(1) / lengths[:, None]

    def _shows_only_logits(self, kwargs: dict) -> bool:
        """Whether nobody can tell that the last block left out what the logits do not need."""
        shown = any(
            getattr(self.config, name) if kwargs.get(name) is None else kwargs[name]
            for name in ("output_hidden_states", "output_attentions")
        )
        return not shown and "is_causal" not in kwargs and self.config._attn_implementation in ("sdpa", "eager")


__all__ = ["SpamGPTForSequenceClassification", "SpamGPTModel", "SpamGPTPreTrainedModel"]
