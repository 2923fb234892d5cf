"""SpamGPT: GPT-2 written out, with a head that classifies text messages.

Sources:

- Radford et al. 2019, *Language Models are Unsupervised Multitask Learners*: the network (GPT-2).
- Raschka, *Build a Large Language Model (From Scratch)*, chapters 4 to 6: the module names and the classifier.
- DeepSeek-AI 2024, *DeepSeek-V2*, section 2.1: key and value projections absorbed into the query and the context.
- `GPT2Model` of `transformers`: attention interface, masks, recorded outputs, gradient checkpointing.

Shapes: B messages, T positions, C = n_embd, H = n_head, D = C / H. Masks (B, T) are 1 for real tokens and 0 for pads.

This file travels to the Hub as remote code, so it imports its sibling files and public libraries only.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import is_torchdynamo_exporting
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_spam_gpt import SpamGPTConfig

if TYPE_CHECKING:
    # Unused, but makes `save_pretrained` copy the pipeline's file along with this one.
    from .pipeline_spam_gpt import SpamPipeline as SpamPipeline


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Compute attention step by step: the only implementation that returns its weights."""
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, T, D) @ (B, H, D, T) -> (B, H, T, T)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights  # (B, H, T, T) @ (B, H, T, D) -> (B, T, H, D)


class MultiHeadAttention(nn.Module):
    def __init__(self, config: SpamGPTConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.n_embd // config.n_head
        self.is_causal = config.causal  # read by the attention functions if they get no mask
        self.W_query = nn.Linear(config.n_embd, config.n_embd, bias=config.qkv_bias)
        self.W_key = nn.Linear(config.n_embd, config.n_embd, bias=config.qkv_bias)
        self.W_value = nn.Linear(config.n_embd, config.n_embd, bias=config.qkv_bias)
        self.out_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, mask: Tensor | None, read_at: Tensor | None, **kwargs) -> tuple[Tensor, Tensor | None]:
        """Attend to all positions of `x` (B, T, C) from each position, or only from the one at `read_at` (B,)."""
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.attn_pdrop if self.training else 0.0
        settings = {"attention_mask": mask, "scaling": self.head_dim**-0.5, "dropout": dropout, **kwargs}
        attend = partial(attend, self, **settings)
        query = self._split_heads(self.W_query(x if read_at is None else _at(x, read_at)))  # (B, H, T or 1, D)
        if read_at is not None and self._can_absorb(x):
            context, weights = self._attend_absorbed(attend, query, x)
        else:
            context, weights = attend(query, self._split_heads(self.W_key(x)), self._split_heads(self.W_value(x)))
        return self.out_proj(context.flatten(2)), weights  # (B, T or 1, H, D) -> (B, T or 1, C)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # (B, T, C) -> (B, H, T, D)

    def _attend_absorbed(self, attend: Callable, query: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Attend from one query per message, (B, H, 1, D), without computing a key or value for every position.

        The score of a position is q·(W_key x + b_key) = (q W_key)·x + q·b_key. The last term is the same for all
        positions, so softmax ignores it. The weights w of a head sum to 1, so its context is
        Σ w (W_value x + b_value) = W_value (Σ w x) + b_value. Rotary embeddings would make this untrue.
        """
        W_key, W_value = (linear.weight.view(-1, self.head_dim, x.shape[2]) for linear in (self.W_key, self.W_value))
        query = torch.einsum("bhtd,hdc->bthc", query, W_key)  # (B, 1, H, C): H queries of one head of width C
        if self.W_key.bias is not None:
            query = query + 0 * self.W_key.bias.sum()  # zero gradient: DDP expects one for every parameter
        context, weights = attend(query, x[:, None], x[:, None])  # (B, H, 1, C)
        context = torch.einsum("bhtc,hdc->bthd", context, W_value)  # (B, 1, H, D)
        if self.W_value.bias is not None:
            context = context + self.W_value.bias.view(-1, self.head_dim)
        return context, weights

    def _can_absorb(self, x: Tensor) -> bool:
        """Return whether `W_key` and `W_value` are plain weights that may be used without calling their modules.

        They are not under adapters, quantization, sharding, offloading or hooks. Attention dropout would
        break the sum of weights above. Exports replace weights by stand-ins of another type.
        """
        linears, any_type = (self.W_key, self.W_value), is_torchdynamo_exporting()
        plain = all(type(lin) is nn.Linear and (any_type or type(lin.weight) is nn.Parameter) for lin in linears)
        offloaded = any(linear.weight.device != x.device for linear in linears)
        hooked = any(linear._forward_hooks or linear._forward_pre_hooks for linear in linears)
        drops = self.training and self.config.attn_pdrop > 0
        return plain and not (offloaded or hooked or drops)


class FeedForward(nn.Module):
    def __init__(self, config: SpamGPTConfig):
        super().__init__()
        n_inner = config.n_inner or 4 * config.n_embd
        self.layers = nn.Sequential(
            nn.Linear(config.n_embd, n_inner),
            nn.GELU(approximate="tanh"),  # GPT-2's "gelu_new"
            nn.Linear(n_inner, config.n_embd),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TransformerBlock(GradientCheckpointingLayer):
    def __init__(self, config: SpamGPTConfig, layer_idx: int):
        super().__init__()
        self.att = MultiHeadAttention(config, layer_idx)
        self.ff = FeedForward(config)
        self.norm1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.norm2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.drop_shortcut = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, mask: Tensor | None, read_at: Tensor | None = None, **kwargs) -> Tensor:
        context, _ = self.att(self.norm1(x), mask, read_at, **kwargs)  # keys and values come from every position
        x = x if read_at is None else _at(x, read_at)  # the rest is needed at one position only: (B, T, C) -> (B, 1, C)
        x = x + self.drop_shortcut(context)
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


def _at(x: Tensor, positions: Tensor) -> Tensor:
    """Return one position of each message: (B, T, ...), (B,) -> (B, 1, ...)."""
    return x[torch.arange(x.shape[0], device=x.device), positions][:, None]


def _is_real(lengths: Tensor, T: int) -> Tensor:
    """Return which positions are before the end of each message: (B,) -> (B, T)."""
    return torch.arange(T, device=lengths.device) < lengths[:, None]


class SpamGPTPreTrainedModel(PreTrainedModel):
    """Initialization and capabilities that both models share."""

    config_class = SpamGPTConfig
    config: SpamGPTConfig
    base_model_prefix = "gpt"
    supports_gradient_checkpointing = True
    # Without this, `Trainer` would infer from `**kwargs` that the loss is averaged over all accumulated batches.
    accepts_loss_kwargs = False
    _input_embed_layer = "tok_emb"
    _no_split_modules: ClassVar = ["TransformerBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar = {"hidden_states": TransformerBlock, "attentions": MultiHeadAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and module is getattr(self, "out_head", None):
            module.reset_parameters()  # the book's head is a new `nn.Linear`
        else:
            super()._init_weights(module)


class SpamGPTModel(SpamGPTPreTrainedModel):
    """The bare GPT. It counts the positions of real tokens only, so pads on the left change no hidden state."""

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

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        read_at: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Return the hidden state of every position after the final norm, (B, T, C); arguments are as for `GPT2Model`.

        Given `read_at` (B,), the last block computes only that position of each message, and the result is (B, 1, C).
        This requires "sdpa" or "eager" attention, and messages padded on the right.
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
        mask = create_causal_mask(self.config, tokens, attention_mask, past_key_values=None)  # (B, 1, T, T) or None
        x = self.drop_emb(tokens + self.pos_emb(positions))
        *earlier, last = self.trf_blocks
        for block in earlier:
            x = block(x, mask, **kwargs)
        if read_at is not None and mask is not None:  # the row of the only query
            mask = _at(mask.expand(x.shape[0], -1, -1, -1).transpose(1, 2), read_at)  # (B, 1, T, T) -> (B, 1, 1, T)
        elif read_at is not None and self.config.causal:
            mask = _is_real(read_at + 1, x.shape[1])[:, None, None]
        x = last(x, mask, read_at, **kwargs)
        return BaseModelOutput(last_hidden_state=self.final_norm(x))


class SpamGPTForSequenceClassification(SpamGPTPreTrainedModel):
    """A GPT that classifies a message from the hidden state of one position, or from their mean (`config.pooling`).

    The same message gets the same logits alone, in any batch, and padded on either side; an empty one gets them too.
    """

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: SpamGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.gpt = SpamGPTModel(config)
        self.out_head = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

    @property
    def classifier(self) -> nn.Module:
        """Other name of `out_head`: PEFT trains and saves a head that it finds under this one."""
        return self.out_head

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__("out_head" if name == "classifier" else name, value)

    def named_modules(self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True) -> Iterator:
        yield from super().named_modules(memo, prefix, remove_duplicate)
        if not remove_duplicate:  # PEFT asks for duplicates; a module without parameters adds only a name
            yield f"{prefix}.classifier".lstrip("."), nn.Module()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Return the logits of each message, (B, num_labels), and the mean cross-entropy `loss` given `labels` (B,).

        The other arguments are as for `lay_out`; hidden states and attentions are those of the laid-out messages.
        """
        return self.read(*self.lay_out(input_ids, attention_mask, inputs_embeds), labels, **kwargs)

    def lay_out(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Move real tokens to the front, then pad or cut to the length that the network reads.

        Ids that end with `eos_token_id` still end with it when they are cut; embeddings are only cut.

        Args:
            input_ids: (B, T), any T, padded on any side.
            attention_mask: (B, T). `None`: every id but `pad_token_id` is real.
            inputs_embeds: token embeddings, (B, T, C), in place of `input_ids`; without a mask all are real.

        Returns:
            Ids (B, L) or embeddings (B, L, C), and how many tokens of each message are real (B,): 1 if it is empty.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            tokens = input_ids.long()  # tokenizers return a float tensor for an empty message
            pad = tokens.new_tensor(self.config.pad_token_id)
            real = tokens != pad if attention_mask is None else attention_mask.bool()
        else:
            tokens = inputs_embeds
            # Call the module: under offloading or sharding, its weight may be elsewhere.
            pad = self.gpt.tok_emb(torch.tensor(self.config.pad_token_id, device=tokens.device)).to(tokens.dtype)
            real = (tokens.new_ones(tokens.shape[:2]) if attention_mask is None else attention_mask).bool()
        if real.shape != tokens.shape[:2]:
            raise ValueError(f"attention_mask is {tuple(real.shape)}, but the tokens are {tuple(tokens.shape[:2])}.")
        B, T = real.shape
        # Real tokens first, in their order. `T * ~real` would be shorter, but has no ONNX form for a dynamic T.
        order = (torch.arange(T, device=real.device) + torch.where(real, 0, T)).argsort(dim=1)
        lengths = real.sum(1)
        if tokens.ndim == 3:
            order, real = order[..., None].expand_as(tokens), real[..., None]
        tokens = torch.where(real, tokens, pad).gather(1, order)
        if missing := self.config.padded_length or int(T == 0):
            tokens = torch.cat([tokens, pad.expand(B, missing, *tokens.shape[2:])], dim=1)
        max_tokens, end = self.config.max_tokens, self.config.eos_token_id
        if tokens.ndim == 2 and end != self.config.pad_token_id:
            last = tokens.gather(1, (lengths - 1).clamp(min=0)[:, None])
            is_place = torch.arange(tokens.shape[1], device=tokens.device) == max_tokens - 1
            tokens = torch.where((lengths > max_tokens)[:, None] & (last == end) & is_place, last, tokens)
        return tokens[:, :max_tokens], lengths.clamp(1, max_tokens)

    def read(self, tokens: Tensor, lengths: Tensor, labels: Tensor | None = None, **kwargs) -> SequenceClassifierOutput:
        """Classify messages laid out by `lay_out`; return `loss` too when `labels` are given."""
        L = tokens.shape[1]
        ends = lengths if self.config.padded_length is None else torch.full_like(lengths, L)
        positions = {"first": torch.zeros_like(lengths), "last": ends - 1, "last_token": lengths - 1}
        position = positions.get(self.config.pooling)  # `None`: their mean is classified
        # The last block may skip all other positions, unless they are to be returned.
        seen = any(kwargs.get(k) or getattr(self.config, k) for k in ("output_hidden_states", "output_attentions"))
        supported = self.config._attn_implementation in ("sdpa", "eager") and "is_causal" not in kwargs
        reads_one = position is not None and supported and not seen
        outputs = self.gpt(
            **{"input_ids" if tokens.ndim == 2 else "inputs_embeds": tokens},
            attention_mask=self.attention_mask(tokens, lengths, **kwargs),
            read_at=position if reads_one else None,
            return_dict=True,
            **kwargs,
        )
        hidden = outputs.last_hidden_state  # (B, L, C), or (B, 1, C) if only one position is read
        if position is None:
            pooled = torch.where(_is_real(ends, L)[..., None], hidden, 0).sum(1) / ends[:, None]  # (B, L, C) -> (B, C)
        else:
            pooled = (hidden if reads_one else _at(hidden, position))[:, 0]
        logits = self.out_head(pooled)  # (B, C) -> (B, num_labels)
        if self.config.temperature != 1:
            logits = logits / self.config.temperature
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)

    def attention_mask(self, tokens: Tensor, lengths: Tensor, **kwargs) -> Tensor | None:
        """Return the mask (B, L) of laid-out messages, or `None` if there is nothing to mask."""
        if self.config.padded_length is None and not kwargs.get("is_causal", self.config.causal):
            return _is_real(lengths, tokens.shape[1])
        return None  # pads are either part of the message, or come after it and are never attended to
