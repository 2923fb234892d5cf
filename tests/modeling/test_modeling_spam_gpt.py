"""The network: the logits of a message match an oracle, and depend on nothing but the message.

The oracle is an independent GPT: one message at a time, no batch, no mask, in double precision.
"""

import copy
import functools
import math

import pytest
import torch
from tiny_models import MESSAGES, PAD, PADDED, POSITIONS, READINGS, WIDTH, build, close, lay, right
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from hf_spam.modeling.modeling_spam_gpt import SpamGPTForSequenceClassification

every_reading = pytest.mark.parametrize(("pooling", "padded_length", "causal"), READINGS)
both_attentions = pytest.mark.parametrize("attention", ["sdpa", "eager"])
LABELS = torch.tensor([0, 1, 1, 0, 1])  # of MESSAGES


@functools.cache
def shared(pooling: str, padded_length: int | None, causal: bool, attention: str = "sdpa"):
    """A model that no test changes."""
    return build(pooling=pooling, padded_length=padded_length, causal=causal, attention=attention)


# --- the oracle


def oracle_hidden(model: SpamGPTForSequenceClassification, tokens: list[int]) -> torch.Tensor:
    """Return the hidden states (T, C) of one message, attending to all of its tokens."""
    config, w = model.config, {name: tensor.double() for name, tensor in model.state_dict().items()}

    def affine(x, name):
        y = x @ w[f"gpt.{name}.weight"].T
        return y + w[f"gpt.{name}.bias"] if f"gpt.{name}.bias" in w else y

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + config.layer_norm_epsilon)
        return scaled * w[f"gpt.{name}.weight"] + w[f"gpt.{name}.bias"]

    T, D = len(tokens), config.n_embd // config.n_head
    x = torch.stack([w["gpt.tok_emb.weight"][t] + w["gpt.pos_emb.weight"][i] for i, t in enumerate(tokens)])
    for n in range(config.n_layer):
        block, seen = f"trf_blocks.{n}", norm(x, f"trf_blocks.{n}.norm1")
        q, k, v = (affine(seen, f"{block}.att.W_{name}") for name in ("query", "key", "value"))
        context = torch.zeros_like(x)
        for head in range(config.n_head):
            part = slice(head * D, (head + 1) * D)
            scores = q[:, part] @ k[:, part].T / math.sqrt(D)
            if config.causal:
                scores[torch.ones(T, T).triu(1).bool()] = -math.inf
            context[:, part] = torch.softmax(scores, -1) @ v[:, part]
        x = x + affine(context, f"{block}.att.out_proj")
        inner = affine(norm(x, f"{block}.norm2"), f"{block}.ff.layers.0")
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + affine(inner, f"{block}.ff.layers.2")
    return norm(x, "final_norm")


def oracle(model: SpamGPTForSequenceClassification, messages: list[list[int]] = MESSAGES) -> torch.Tensor:
    """Return the logits (B, num_labels), reading each message by itself as the configuration says."""
    config, rows = model.config, []
    for message in messages:
        real = message[: config.padded_length or config.n_positions] or [config.pad_token_id]
        missing = 0 if config.padded_length is None else config.padded_length - len(real)
        hidden = oracle_hidden(model, real + missing * [config.pad_token_id])
        position = {"first": 0, "last": -1, "last_token": len(real) - 1}.get(config.pooling)
        pooled = hidden.mean(0) if position is None else hidden[position]
        rows.append(model.out_head.weight.double() @ pooled + model.out_head.bias.double())
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(6))
def test_logits_match_the_oracle_for_random_configurations(seed):
    """Protects the network itself: any shape, with and without biases, reading messages as in the book."""
    draw = torch.Generator().manual_seed(seed)
    pick = lambda *values: values[torch.randint(len(values), (), generator=draw)]  # noqa: E731
    heads = pick(1, 2, 3, 4)
    shape = {"n_head": heads, "n_embd": heads * pick(2, 6, 8), "n_layer": pick(1, 2, 3), "n_inner": pick(None, 1, 20)}
    reading = {"padded_length": pick(1, 5, PADDED), "num_labels": pick(2, 3, 5)}
    model = build(seed=seed, **shape, **reading, qkv_bias=seed % 2 == 0, layer_norm_epsilon=0.01)
    block = model.gpt.trf_blocks[0]
    assert all((w.bias is not None) == (seed % 2 == 0) for w in (block.att.W_query, block.att.W_key, block.att.W_value))
    assert block.ff.layers[0].out_features == (shape["n_inner"] or 4 * shape["n_embd"])
    with torch.no_grad():
        close(model(*right(MESSAGES)).logits, oracle(model))


# --- one message, one answer


@both_attentions
@every_reading
def test_logits_match_the_oracle_in_any_layout(pooling, padded_length, causal, attention):
    """Protects the contract: alone, in a batch, padded left, right or with holes, over any junk, empty or too long."""
    model = shared(pooling, padded_length, causal, attention)
    messages = [*MESSAGES, [PAD, 5, PAD, PAD]]  # ids of pads are real where the mask says so
    expected = oracle(model, messages)
    lengths, width = [len(m) for m in messages], 25
    first, last = [list(range(n)) for n in lengths], [list(range(width - n, width)) for n in lengths]
    holes = [sorted(torch.randperm(width)[:n].tolist()) for n in lengths]
    with torch.no_grad():
        for where, junk in ((first, PAD), (last, PAD), (holes, PAD), (last, 3), (holes, -100)):
            ids, mask = lay(messages, where, width, junk)
            before = ids.clone(), mask.clone()
            close(model(ids, mask).logits, expected)
            close(model(ids, mask.bool()).logits, expected)
            assert torch.equal(ids, before[0]) and torch.equal(mask, before[1])
            if junk == PAD:
                close(model(ids[:-1]).logits, expected[:-1])  # without a mask, every id but the pad is real
        for message, logits in zip(messages, expected, strict=True):
            alone = torch.tensor([message])  # a tokenizer returns a float tensor for an empty message
            close(model(alone, torch.ones_like(alone)).logits[0], logits)
            if PAD not in message:
                close(model(alone).logits[0], logits)
        close(model(torch.ones(3, 0)).logits, expected[[2, 2, 2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_reading
def test_inputs_embeds_match_input_ids(pooling, padded_length, causal, dtype):
    """Protects `inputs_embeds`, for saliency methods and prompt tuning. Embeddings of pads may be NaN."""
    model = copy.deepcopy(shared(pooling, padded_length, causal)).to(dtype)
    ids, mask = lay(MESSAGES, [[2, 3, 5, 7, 8], [4], [], [*range(5, 19)], [*range(3, 23)]], 24, junk=0)
    embeds = model.get_input_embeddings()(ids).detach()
    embeds[mask == 0] = float("nan")
    with torch.no_grad():
        logits = model(inputs_embeds=embeds, attention_mask=mask).logits
        close(logits, model(ids, mask).logits)
        assert logits.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        close(model(inputs_embeds=embeds[:1, [2, 3, 5, 7, 8]]).logits, logits[:1], tolerance)
        close(model(inputs_embeds=embeds[:1, :0]).logits, logits[2:3], tolerance)


@pytest.mark.parametrize("padded_length", [None, PADDED])
def test_a_long_message_keeps_its_end_of_text_token(padded_length):
    """As with the tokenizer's truncation, on either padding side; a message without that token is only cut."""
    model = build(pooling="last_token", padded_length=padded_length, eos_token_id=0)
    most = model.config.max_tokens
    long, end = list(range(1, 30)), [0]
    messages, cut = [long + end, long, [5, 9, *end]], [long[: most - 1] + end, long[:most], [5, 9, *end]]
    with torch.no_grad():
        expected = model(*right(cut)).logits
        close(model(*right(messages)).logits, expected)
        close(model(*lay(messages, [list(range(30 - len(m), 30)) for m in messages], 30)).logits, expected)


@pytest.mark.parametrize("tokens", [0, 1, 11, 12, 13, 17, 1000])
@pytest.mark.parametrize("padded_length", [None, PADDED])
def test_laid_out_length(tokens, padded_length):
    """Protects batch planning: the length in the configuration is the length that the model lays out."""
    model = shared("last", padded_length, True)
    laid_out, lengths = model.lay_out(torch.zeros(1, tokens, dtype=torch.long), torch.ones(1, tokens))
    assert laid_out.shape[1] == model.config.laid_out_length(tokens)
    assert lengths.item() == max(1, min(tokens, model.config.max_tokens))


@both_attentions
def test_is_causal_argument_overrides_the_configuration(attention):
    """Protects the library's `is_causal=` argument, which must not drop the mask over the pads."""
    both = shared("mean", None, False, attention)
    causal = shared("mean", None, True, attention)
    ids, mask = right(MESSAGES, junk=7)
    with torch.no_grad():
        close(causal(ids, mask, is_causal=False).logits, both(ids, mask).logits)
        close(both(ids, mask, is_causal=True).logits, causal(ids, mask).logits)


@both_attentions
@pytest.mark.parametrize("causal", [True, False])
def test_hidden_states_match_the_oracle_on_either_padding_side(causal, attention):
    """Protects `SpamGPTModel` on its own: real positions are the same for either padding side, and pads stay finite."""
    model = shared("last", None, causal, attention)
    messages = MESSAGES[:4]
    with torch.no_grad():
        for start in (lambda n: 0, lambda n: POSITIONS - n):
            where = [list(range(start(len(m)), start(len(m)) + len(m))) for m in messages]
            hidden = model.gpt(*lay(messages, where, POSITIONS, junk=7)).last_hidden_state
            assert hidden.isfinite().all()
            for row, (message, positions) in enumerate(zip(messages, where, strict=True)):
                if message:
                    close(hidden[row, positions], oracle_hidden(model, message))
        embeds = model.gpt.tok_emb(torch.tensor([MESSAGES[0]]))
        close(model.gpt(inputs_embeds=embeds).last_hidden_state[0], oracle_hidden(model, MESSAGES[0]))


def test_invalid_inputs_are_refused():
    """Protects the caller from silent broadcasting."""
    model, ids = shared("last", None, True), torch.ones(2, 3, dtype=torch.long)
    for network in (model, model.gpt):
        for arguments in ({}, {"input_ids": ids, "inputs_embeds": torch.zeros(2, 3, WIDTH)}):
            with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
                network(**arguments)
    with pytest.raises(ValueError, match="17 tokens, but the model has 16 positions"):
        model.gpt(torch.ones(1, 17, dtype=torch.long))
    for shape in [(1, 3), (2, 4), (3,)]:
        with pytest.raises(ValueError, match=r"attention_mask is \(.*\), but the tokens are \(2, 3\)"):
            model(ids, torch.ones(shape))


# --- the last block, which computes only one position


def test_last_block_skips_unused_positions():
    """Protects the speed: it computes one position, and skips keys and values if possible."""

    def operations(**asked) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*right(MESSAGES), **asked)
        return counter.get_total_flops()

    model = build(pooling="last_token", attention="eager")
    everything, absorbed = operations(output_hidden_states=True), operations()
    model.config.attn_pdrop = 0.1
    model.train()
    keys_and_values = 2 * 2 * len(MESSAGES) * POSITIONS * WIDTH**2
    assert absorbed + keys_and_values / 2 < operations() < everything - 2 * keys_and_values


@both_attentions
@pytest.mark.parametrize("name", ["W_key", "W_value"])
def test_hooks_on_keys_and_values_are_called(name, attention):
    """Protects hooked modules, which the last block would otherwise bypass, as it would LoRA's and offloaded ones."""
    hooked = build(pooling="last_token", attention=attention)
    doubled = copy.deepcopy(hooked)
    getattr(hooked.gpt.trf_blocks[-1].att, name).register_forward_hook(lambda module, inputs, output: 2 * output)
    with torch.no_grad():
        for parameter in getattr(doubled.gpt.trf_blocks[-1].att, name).parameters():
            parameter *= 2
        close(hooked(*right(MESSAGES)).logits, oracle(doubled))


@both_attentions
@pytest.mark.parametrize("pooling", ["last", "last_token", "first"])
def test_every_parameter_gets_its_gradient(pooling, attention):
    """Gradients equal those with all positions computed, and none is missing, because DDP waits for all of them."""
    # A first position that sees only itself has no use for its query and key.
    model = build(pooling=pooling, causal=pooling != "first", attention=attention).train()
    gradients = []
    for everything in (False, True):
        model.zero_grad()
        model(*right(MESSAGES), labels=LABELS, output_hidden_states=everything).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        close(gradient, gradients[1][name])
        if not name.endswith("W_key.bias"):  # the key bias adds the same to all scores, so it has no effect
            assert gradient.abs().sum() > 0, name


# --- loss and outputs


@pytest.mark.parametrize("num_labels", [2, 3])
def test_loss_and_temperature(num_labels):
    """Protects training and calibration; asking for a loss does not change the logits."""
    model, ids = build(num_labels=num_labels), torch.randint(PAD, (2, 5))
    plain, labels = model(ids).logits, torch.tensor([num_labels - 1, 0])
    assert plain.shape == (2, num_labels) and model(ids).loss is None
    for temperature in (1.0, 2.5):
        model.config.temperature = temperature
        output = model(ids, labels=labels)
        assert torch.equal(output.logits, plain / temperature)
        close(output.loss, cross_entropy(plain / temperature, labels))


@pytest.mark.parametrize("asked_by", ["argument", "configuration"])
@every_reading
def test_hidden_states_and_attentions_follow_the_conventions(pooling, padded_length, causal, asked_by):
    """Protects probes and plots: number and shapes, the final norm on the last state, causality."""
    model = build(pooling=pooling, padded_length=padded_length, causal=causal, attention="eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    ids, mask = right(MESSAGES[:3])
    plain = model(ids, mask)
    assert plain.hidden_states is None and plain.attentions is None
    if asked_by == "configuration":
        for name, value in asked.items():
            setattr(model.config, name, value)
        asked = {}
    output = model(ids, mask, **asked)
    close(output.logits, plain.logits)
    T = padded_length or 5
    assert [h.shape for h in output.hidden_states] == [(3, T, WIDTH)] * 3
    assert [a.shape for a in output.attentions] == [(3, 4, T, T)] * 2
    first = MESSAGES[0] + [PAD] * (T - 5)
    close(output.hidden_states[0][0], model.gpt.tok_emb.weight[first] + model.gpt.pos_emb.weight[:T])
    close(output.hidden_states[-1][0], oracle_hidden(model, first))
    for weights in output.attentions:
        close(weights.sum(-1), torch.ones(3, 4, T))
        assert (weights.triu(1) == 0).all() == causal
    for tensor in (returned := [*output.hidden_states[:-1], *output.attentions]):
        tensor.retain_grad()
    output.logits.sum().backward()  # returned states are part of the graph, for saliency methods
    assert all(tensor.grad is not None for tensor in returned)


# --- training


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(use_reentrant, dropout):
    """Protects training with little memory."""
    model = build(embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert checkpointed.is_activation_checkpointing and checkpointed.gpt.trf_blocks[0].gradient_checkpointing
    losses = []
    for network in (model, checkpointed):
        torch.manual_seed(1)
        losses.append(network(*right(MESSAGES), labels=LABELS).loss)
        losses[-1].backward()
    assert torch.equal(*losses)
    for a, b in zip(model.parameters(), checkpointed.parameters(), strict=True):
        close(a.grad, b.grad, 1e-6)


@both_attentions
@pytest.mark.parametrize("which", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_each_dropout_is_active_only_in_training(which, attention):
    """Protects the three settings from being ignored, and evaluation from noise."""
    model, batch = build(**{which: 0.5}, attention=attention), right(MESSAGES)
    with torch.no_grad():
        assert torch.equal(model(*batch).logits, model(*batch).logits)
        model.train()
        assert not torch.allclose(model(*batch).logits, model(*batch).logits)


def test_autocast_matches_full_precision():
    """Protects `bf16=True` of the Trainer: autocast works with every pooling."""
    ids, mask = right(MESSAGES)
    for reading in READINGS:
        model = shared(*reading)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            mixed = model(ids, mask).logits.float()
            embeds = model(inputs_embeds=model.gpt.tok_emb(ids), attention_mask=mask).logits.float()
        close(mixed, model(ids, mask).logits.detach(), 0.3)
        close(embeds, mixed, 1e-2)
