"""The network and its contracts: what a message's logits are, and that nothing but the message changes them.

The oracle below is an independent GPT: one message at a time, no batch, no mask, in double precision.
"""

import copy
import functools
import math

import pytest
import torch
from accelerate import cpu_offload
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config

from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig
from hf_spam.modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel

VOCAB, PAD, POSITIONS, PADDED = 64, 63, 16, 12
POOLINGS = ("last", "last_token", "first", "mean")
READINGS = [(p, length, causal) for p in POOLINGS for length in (None, PADDED) for causal in (True, False)]
every_reading = pytest.mark.parametrize(("pooling", "padded_length", "causal"), READINGS)
# One that fits, one of one token, an empty one, one longer than PADDED, one longer than POSITIONS.
MESSAGES = [[5, 9, 2, 44, 7], [8], [], list(range(20, 34)), [*range(1, 21)]]


def tiny_config(**overrides) -> SpamGPTConfig:
    """A GPT of two layers; weights far from zero, so that every position shows in the logits."""
    shape = {"vocab_size": VOCAB, "n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4}
    ids = {"pad_token_id": PAD, "bos_token_id": PAD, "eos_token_id": PAD}
    return SpamGPTConfig(**{**shape, **ids, "initializer_range": 0.3, **overrides})


def classifier(seed: int = 0, **overrides) -> SpamGPTForSequenceClassification:
    attention = overrides.pop("attn_implementation", "sdpa")
    torch.manual_seed(seed)
    model = SpamGPTForSequenceClassification(tiny_config(**overrides)).eval()
    model.set_attn_implementation(attention)
    with torch.no_grad():  # fresh biases are zero and fresh norms are one: neither would be tested
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@functools.cache
def shared_classifier(pooling: str, padded_length: int | None, causal: bool, attention: str = "sdpa"):
    return classifier(pooling=pooling, padded_length=padded_length, causal=causal, attn_implementation=attention)


def lay(messages: list[list[int]], where: list[list[int]], width: int, junk: int = PAD):
    """Ids and mask (B, width): message i stands at the positions `where[i]`, `junk` everywhere else."""
    ids, mask = torch.full((len(messages), width), junk), torch.zeros(len(messages), width, dtype=torch.long)
    for row, (message, positions) in enumerate(zip(messages, where, strict=True)):
        ids[row, positions] = torch.tensor(message, dtype=torch.long)
        mask[row, positions] = 1
    return ids, mask


def right(messages: list[list[int]], junk: int = PAD):
    return lay(messages, [list(range(len(m))) for m in messages], max(map(len, messages)), junk)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), atol=tolerance, rtol=tolerance)


# --- the oracle


def oracle_hidden(model: SpamGPTForSequenceClassification, tokens: list[int]) -> torch.Tensor:
    """The hidden states (T, C) of one message, every one of its tokens attended to."""
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


def oracle(model: SpamGPTForSequenceClassification, messages: list[list[int]]) -> torch.Tensor:
    """The logits (B, num_labels), each message read by itself as the configuration says."""
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
def test_the_book_s_reading_of_random_configurations_is_the_oracle_s(seed):
    """Protects the network itself: any shape, biases or none, the last of the padded positions (the book)."""
    draw = torch.Generator().manual_seed(seed)
    pick = lambda *values: values[torch.randint(len(values), (), generator=draw)]  # noqa: E731
    heads = pick(1, 2, 3, 4)
    shape = {"n_head": heads, "n_embd": heads * pick(2, 6, 8), "n_layer": pick(1, 2, 3), "n_inner": pick(None, 1, 20)}
    reading = {"padded_length": pick(1, 5, PADDED), "id2label": {i: f"class {i}" for i in range(pick(2, 3, 5))}}
    model = classifier(seed, **shape, **reading, qkv_bias=seed % 2 == 0, layer_norm_epsilon=0.01)
    block = model.gpt.trf_blocks[0]
    assert all((w.bias is not None) == (seed % 2 == 0) for w in (block.att.W_query, block.att.W_key, block.att.W_value))
    assert block.ff.layers[0].out_features == (shape["n_inner"] or 4 * shape["n_embd"])
    ids, mask = right(MESSAGES)
    with torch.no_grad():
        close(model(ids, mask).logits, oracle(model, MESSAGES))


# --- one message, one answer


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_reading
def test_a_message_has_the_oracle_s_logits_however_it_is_laid_out(pooling, padded_length, causal, attention):
    """Protects the contract of DESIGN.md: alone, in a batch, left, right, with holes, over any junk."""
    model = shared_classifier(pooling, padded_length, causal, attention)
    expected = oracle(model, MESSAGES)
    lengths, width = [len(m) for m in MESSAGES], 25
    first, last = [list(range(n)) for n in lengths], [list(range(width - n, width)) for n in lengths]
    holes = [sorted(torch.randperm(width)[:n].tolist()) for n in lengths]
    with torch.no_grad():
        for where in (first, last, holes):
            for junk in (PAD, 3, -100):
                ids, mask = lay(MESSAGES, where, width, junk)
                close(model(ids, mask).logits, expected)
                close(model(ids, mask.bool()).logits, expected)
                if junk == PAD:
                    close(model(ids).logits, expected)  # every id but the pad is real
        for message, logits in zip(MESSAGES, expected, strict=True):
            alone = torch.tensor([message], dtype=torch.long)
            close(model(alone).logits[0], logits)
            close(model(alone, torch.ones_like(alone)).logits[0], logits)


@pytest.mark.parametrize("keeper", ["lora", "offloading", "a hook"])
def test_weights_that_are_not_simply_there_are_used_by_their_modules(keeper):
    """Where one position is read, the weights of keys and values are used without a call, unless it would be wrong."""
    model = classifier(pooling="last_token", padded_length=None)
    assert model.gpt.trf_blocks[-1].att._can_absorb(model.gpt.tok_emb.weight)
    ids, mask = right(MESSAGES)
    if keeper == "lora":
        peft = pytest.importorskip("peft")
        wrapped = peft.get_peft_model(
            copy.deepcopy(model), peft.LoraConfig(target_modules=["W_key", "W_value"], init_lora_weights=False)
        ).eval()
        merged = copy.deepcopy(wrapped).merge_and_unload()
    elif keeper == "offloading":
        merged, wrapped = model, cpu_offload(copy.deepcopy(model), execution_device="cpu")
    else:
        merged, wrapped = copy.deepcopy(model), copy.deepcopy(model)
        for part in ("W_key", "W_value"):
            linear, plain = getattr(wrapped.gpt.trf_blocks[-1].att, part), getattr(merged.gpt.trf_blocks[-1].att, part)
            linear.register_forward_hook(lambda module, inputs, output: 2 * output)
            with torch.no_grad():
                plain.weight *= 2
                if plain.bias is not None:
                    plain.bias *= 2
    with torch.no_grad():
        close(wrapped(input_ids=ids, attention_mask=mask).logits, oracle(merged, MESSAGES))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_is_learned_does_not_depend_on_how_the_weights_are_used(attention, monkeypatch):
    """Every weight has the same gradient with and without a call of its module, and each has one: DDP waits for all.

    The bias of the keys has none in truth: what it adds to all scores alike changes no attention. With dropout in the
    attention the modules are called.
    """
    model = classifier(pooling="last_token", padded_length=None, attn_implementation=attention).train()
    attend, (ids, mask) = model.gpt.trf_blocks[-1].att, right(MESSAGES)
    labels, gradients = torch.arange(len(MESSAGES)) % 2, []
    for absorb in (True, False):
        if not absorb:
            monkeypatch.setattr(type(attend), "_can_absorb", lambda self, x: False)
        assert attend._can_absorb(model.gpt.tok_emb.weight) == absorb
        model.zero_grad()
        model(ids, mask, labels=labels).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        close(gradient, gradients[1][name])
    assert not gradients[0]["gpt.trf_blocks.1.att.W_key.bias"].any()
    monkeypatch.undo()
    model.config.attn_pdrop = 0.1
    assert not attend._can_absorb(model.gpt.tok_emb.weight)


def test_it_runs_on_the_oldest_torch_of_the_library(monkeypatch):
    """2.6, which cannot tell an export: the file travels without this package and what it requires."""
    model, (ids, mask) = classifier(pooling="last_token", padded_length=None), right(MESSAGES)
    monkeypatch.delattr(torch.compiler, "is_exporting")
    with torch.no_grad():
        close(model(ids, mask).logits, oracle(model, MESSAGES))


@pytest.mark.parametrize("reading", READINGS, ids=str)
@settings(max_examples=6, derandomize=True)
@given(data=st.data())
def test_no_neighbour_padding_or_order_changes_a_message(reading, data):
    """Protects the same contract against the layouts nobody thought of."""
    model = shared_classifier(*reading)
    messages = data.draw(st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=20), min_size=1, max_size=5))
    width = data.draw(st.integers(max(map(len, messages)), 24))
    where = [sorted(data.draw(st.permutations(range(width)))[: len(m)]) for m in messages]
    order = data.draw(st.permutations(range(len(messages))))
    ids, mask = lay(messages, where, width, junk=data.draw(st.integers(0, VOCAB - 1)))
    with torch.no_grad():
        together = model(ids[order], mask[order]).logits
        for row, i in enumerate(order):
            alone = torch.tensor([messages[i]], dtype=torch.long)
            close(together[row], model(alone, torch.ones_like(alone)).logits[0])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_pads_of_padded_length_are_read_like_tokens(pooling, causal):
    """Protects the book's reading: its pads are attended to, so that writing them out changes nothing."""
    model = shared_classifier(pooling, PADDED, causal)
    message, pads = MESSAGES[0], [PAD] * (PADDED - len(MESSAGES[0]))
    ids, written_out = torch.tensor([message]), torch.tensor([message + pads])
    with torch.no_grad():
        logits = model(ids).logits
        if pooling == "last_token":  # where the message ends is what the mask is for
            close(model(written_out, torch.tensor([[1] * len(message) + [0] * len(pads)])).logits, logits)
        else:
            close(model(written_out, torch.ones_like(written_out)).logits, logits)
        unpadded = copy.deepcopy(model)
        unpadded.config.padded_length = None
        same = pooling in ("first", "last_token") and causal  # positions that see none of the pads
        assert torch.allclose(unpadded(ids).logits, logits, atol=1e-5) == same


@every_reading
def test_an_empty_message_has_one_answer(pooling, padded_length, causal):
    """Protects against the crash of the stock pipeline on "": a tokenizer returns a float tensor of no positions."""
    model = shared_classifier(pooling, padded_length, causal)
    expected = oracle(model, [[]])
    nothing = torch.ones(1, 0)
    with torch.no_grad():
        for ids, mask in [
            (nothing, None),
            (nothing, nothing),
            (nothing.long(), nothing.long()),
            (torch.full((1, 5), PAD), None),
            (torch.full((1, 5), 7), torch.zeros(1, 5)),
        ]:
            close(model(ids, mask).logits, expected)
        close(model(torch.ones(3, 0)).logits, expected.expand(3, -1))
        close(model(inputs_embeds=torch.ones(1, 0, 32)).logits, expected)
        close(model(inputs_embeds=torch.ones(1, 4, 32), attention_mask=torch.zeros(1, 4)).logits, expected)


@every_reading
def test_a_long_message_is_read_as_its_first_tokens(pooling, padded_length, causal):
    """Protects against an index error past the position table, and the wrong end being cut."""
    model = shared_classifier(pooling, padded_length, causal)
    limit = padded_length or POSITIONS
    long = torch.randint(PAD, (2, 5000))
    padded_left = torch.cat([torch.full((2, 40), 1), long], 1)
    mask = torch.cat([torch.zeros(2, 40), torch.ones(2, 5000)], 1)
    with torch.no_grad():
        expected = model(long[:, :limit]).logits
        close(model(long).logits, expected)
        close(model(padded_left, mask).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_reading
def test_embeddings_are_read_like_the_ids_they_come_from(pooling, padded_length, causal, dtype):
    """Protects `inputs_embeds`, which explanations and prompt tuning feed. Under the pads stands no number at all."""
    model = copy.deepcopy(shared_classifier(pooling, padded_length, causal)).to(dtype)
    ids, mask = lay(MESSAGES, [[2, 3, 5, 7, 8], [4], [], [*range(5, 19)], [*range(3, 23)]], 24, junk=0)
    embeds = model.get_input_embeddings()(ids).detach()
    embeds[mask == 0] = float("nan")
    with torch.no_grad():
        logits = model(inputs_embeds=embeds, attention_mask=mask).logits
        close(logits, model(ids, mask).logits)
        assert logits.dtype == dtype
        close(
            model(inputs_embeds=embeds[:1, [2, 3, 5, 7, 8]]).logits, logits[:1], 1e-5 if dtype == torch.float32 else 0.1
        )


def test_the_caller_s_tensors_are_left_alone():
    """Protects a dataset cached as tensors: the layout is made in a copy."""
    ids, mask = lay(MESSAGES, [list(range(20 - len(m), 20)) for m in MESSAGES], 20)
    before = ids.clone(), mask.clone()
    shared_classifier("last", None, True)(ids, mask)
    assert torch.equal(ids, before[0]) and torch.equal(mask, before[1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_is_causal_of_a_call_reads_as_the_configuration_s(attention):
    """Protects the library's `is_causal=` argument: it must bring the mask over the pads with it."""
    both = shared_classifier("mean", None, False, attention)
    causal = classifier(pooling="mean", causal=True, attn_implementation=attention)
    ids, mask = right(MESSAGES, junk=7)
    with torch.no_grad():
        close(causal(ids, mask, is_causal=False).logits, both(ids, mask).logits)
        close(both(ids, mask, is_causal=True).logits, causal(ids, mask).logits)
    assert causal.config.causal is True and both.config.causal is False


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_bare_model_has_the_oracle_s_hidden_states_left_and_right(causal, attention):
    """Protects `SpamGPTModel` used by itself: real positions are the same on either side, and pads stay finite."""
    model = shared_classifier("last", None, causal, attention)
    messages = [MESSAGES[0], MESSAGES[1], [], MESSAGES[3]]
    with torch.no_grad():
        for start in (lambda n: 0, lambda n: POSITIONS - n):
            where = [list(range(start(len(m)), start(len(m)) + len(m))) for m in messages]
            ids, mask = lay(messages, where, POSITIONS, junk=7)
            hidden = model.gpt(ids, mask).last_hidden_state
            assert hidden.isfinite().all()
            for row, (message, positions) in enumerate(zip(messages, where, strict=True)):
                if message:
                    close(hidden[row, positions], oracle_hidden(model, message))
        ids = torch.tensor([MESSAGES[0]])
        close(model.gpt(inputs_embeds=model.gpt.tok_emb(ids)).last_hidden_state[0], oracle_hidden(model, MESSAGES[0]))


def test_a_call_that_cannot_be_read_says_why():
    """Protects the caller from a broadcast that answers for fewer messages than were asked."""
    model = shared_classifier("last", None, True)
    ids = torch.ones(2, 3, dtype=torch.long)
    for network in (model, model.gpt):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            network()
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            network(ids, inputs_embeds=torch.zeros(2, 3, 32))
    with pytest.raises(ValueError, match="17 tokens, but the model has 16 positions"):
        model.gpt(torch.ones(1, 17, dtype=torch.long))
    for shape in [(1, 3), (2, 4), (3,)]:
        with pytest.raises(ValueError, match=r"attention_mask is \(.*\), the tokens are \(2, 3\)"):
            model(ids, torch.ones(shape))


# --- loss and outputs


def test_the_loss_is_the_mean_cross_entropy():
    """Protects training: the loss, and that asking for it leaves the logits as they are."""
    model, (ids, mask) = shared_classifier("last", PADDED, True), right(MESSAGES)
    labels = torch.tensor([0, 1, 1, 0, 1])
    output = model(ids, mask, labels=labels)
    close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    assert torch.equal(output.logits, model(ids, mask).logits) and model(ids, mask).loss is None


@pytest.mark.parametrize(
    ("settings_", "labels", "expected"),
    [
        ({"num_labels": 1}, torch.tensor([0.5, -1.0]), lambda x, y: torch.nn.functional.mse_loss(x[:, 0], y)),
        (
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            torch.tensor([[1.0, 0, 1], [0, 0, 1]]),
            torch.nn.functional.binary_cross_entropy_with_logits,
        ),
        ({"num_labels": 3}, torch.tensor([2, 0]), torch.nn.functional.cross_entropy),
    ],
    ids=["regression", "multi-label", "three classes"],
)
def test_the_library_s_problem_types_have_their_losses(settings_, labels, expected):
    """Protects reuse of the network for a score, several labels at once, or more classes than two."""
    model = classifier(**settings_)
    output = model(torch.randint(PAD, (2, 5)), labels=labels)
    assert output.logits.shape == (2, model.config.num_labels)
    close(output.loss, expected(output.logits, labels))


@pytest.mark.parametrize("asked_by", ["argument", "configuration"])
@every_reading
def test_hidden_states_and_attentions_follow_the_library_s_conventions(pooling, padded_length, causal, asked_by):
    """Protects what probes and plots read: their number, their shapes, the final norm on the last, causality."""
    model = classifier(pooling=pooling, padded_length=padded_length, causal=causal, attn_implementation="eager")
    model.train()  # no dropout is configured: weights still sum to one
    asked = {"output_hidden_states": True, "output_attentions": True}
    if asked_by == "configuration":
        for name, value in asked.items():
            setattr(model.config, name, value)
        asked = {}
    ids, mask = right(MESSAGES[:3])
    output = model(ids, mask, **asked)
    T = padded_length or 5
    assert [h.shape for h in output.hidden_states] == [(3, T, 32)] * 3
    assert [a.shape for a in output.attentions] == [(3, 4, T, T)] * 2
    laid_out, lengths = model._lay_out(ids, mask, torch.tensor(PAD))
    embedded = model.gpt.tok_emb(laid_out) + model.gpt.pos_emb.weight[:T]
    # Pads that are masked have clamped positions, which nobody sees: the first row has none of them.
    close(output.hidden_states[0][0], embedded[0])
    hidden, position = output.hidden_states[-1], model._position(lengths, T)
    pooled = model._mean(hidden, lengths) if position is None else hidden[torch.arange(3), position]
    close(model.out_head(pooled), output.logits)
    for weights in output.attentions:
        close(weights.sum(-1), torch.ones(3, 4, T))
        assert (weights.triu(1) == 0).all() == causal
    base = model.gpt(ids, **asked)
    assert torch.equal(base.hidden_states[-1], base.last_hidden_state) and len(base.hidden_states) == 3
    # Where nobody asks for them, the last block computes the pooled position only: the same logits, and gradients.
    for name in ("output_hidden_states", "output_attentions"):
        setattr(model.config, name, False)
    one = model(ids, mask)
    assert one.hidden_states is None
    close(one.logits, output.logits)
    last = model.gpt.trf_blocks[-1].att.W_query.weight
    close(*(torch.autograd.grad(each.logits.sum(), last)[0] for each in (one, output)))


def test_gradients_reach_every_hidden_state_and_attention():
    """Protects saliency methods: what is returned is part of the graph, not a copy beside it."""
    model = classifier(attn_implementation="eager")
    output = model(torch.randint(PAD, (2, 5)), output_hidden_states=True, output_attentions=True)
    returned = [*output.hidden_states[:-1], *output.attentions]
    for tensor in returned:
        tensor.retain_grad()
    output.logits.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in returned)


@pytest.mark.parametrize("asked_by", ["argument", "configuration"])
def test_tuples_hold_what_the_named_outputs_hold(asked_by):
    """Protects `return_dict=False`, which exporters and old code ask for, by argument or by configuration."""
    model = classifier(attn_implementation="eager")
    ids, labels = torch.randint(PAD, (2, 5)), torch.tensor([0, 1])
    for network, more in [(model, {"labels": labels}), (model, {}), (model.gpt, {})]:
        for every in ({}, {"output_hidden_states": True, "output_attentions": True}):
            named = network(ids, **more, **every)
            model.config.return_dict = asked_by == "argument"
            plain = network(ids, **more, **every, **({"return_dict": False} if asked_by == "argument" else {}))
            model.config.return_dict = True
            assert isinstance(plain, tuple) and len(plain) == len(named.to_tuple())
            flat = lambda xs: [t for x in xs for t in (x if isinstance(x, tuple) else (x,))]  # noqa: E731
            assert all(torch.equal(a, b) for a, b in zip(flat(plain), flat(named.to_tuple()), strict=True))


# --- training


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("padded_length", [None, PADDED])
def test_every_parameter_learns(pooling, padded_length):
    """Protects against a parameter that is built and saved but has no part in the answer."""
    causal = pooling != "first"  # a first position that sees only itself has no use for its query and key
    model = classifier(pooling=pooling, padded_length=padded_length, causal=causal, qkv_bias=False)
    ids, mask = right(MESSAGES)
    model(ids, mask, labels=torch.tensor([0, 1, 1, 0, 1])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(use_reentrant, dropout):
    """Protects training in little memory."""
    model = classifier(embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert checkpointed.is_activation_checkpointing and checkpointed.gpt.trf_blocks[0].gradient_checkpointing
    ids, mask = right(MESSAGES)
    losses = []
    for network in (model, checkpointed):
        torch.manual_seed(1)
        losses.append(network(ids, mask, labels=torch.tensor([0, 1, 1, 0, 1])).loss)
        losses[-1].backward()
    assert torch.equal(*losses)
    for a, b in zip(model.parameters(), checkpointed.parameters(), strict=True):
        close(a.grad, b.grad, 1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("which", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_each_dropout_acts_in_training_and_in_training_only(which, attention):
    """Protects the three settings from being read nowhere, and evaluation from noise."""
    model = classifier(**{which: 0.5}, attn_implementation=attention)
    ids, mask = right(MESSAGES)
    with torch.no_grad():
        assert torch.equal(model(ids, mask).logits, model(ids, mask).logits)
        model.train()
        assert not torch.allclose(model(ids, mask).logits, model(ids, mask).logits)


def test_mixed_precision_answers_like_full_precision():
    """Protects `bf16=True` of a Trainer: autocast must go through every reading."""
    ids, mask = right(MESSAGES)
    for reading in READINGS:
        model = shared_classifier(*reading)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            mixed = model(ids, mask).logits.float()
            embeds = model(inputs_embeds=model.gpt.tok_emb(ids), attention_mask=mask).logits.float()
        close(mixed, model(ids, mask).logits.detach(), 0.3)
        close(embeds, mixed, 1e-2)


# --- the configuration


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"n_positions": 0}, "n_positions must be at least 1"),
        ({"n_embd": 0}, "n_embd must be at least 1"),
        ({"n_layer": -1}, "n_layer must be at least 1, got -1"),
        ({"n_head": 0}, "n_head must be at least 1"),
        ({"n_inner": 0}, "n_inner must be at least 1"),
        ({"n_embd": 30}, r"n_embd \(30\) must be a multiple of n_head \(4\)"),
        ({"hidden_size": 30}, r"n_embd \(30\) must be a multiple"),
        ({"pad_token_id": VOCAB}, r"pad_token_id \(64\) is not in the vocabulary of 64"),
        ({"pad_token_id": -1}, "is not in the vocabulary"),
        ({"padded_length": 0}, r"padded_length \(0\) must lie in 1..n_positions \(16\)"),
        ({"padded_length": POSITIONS + 1}, r"padded_length \(17\) must lie in 1..n_positions"),
        ({"embd_pdrop": 1.0}, r"embd_pdrop must lie in \[0, 1\), got 1.0"),
        ({"attn_pdrop": -0.1}, "attn_pdrop must lie"),
        ({"resid_pdrop": float("nan")}, "resid_pdrop must lie"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon must be above 0"),
        ({"initializer_range": -1.0}, "initializer_range must be above 0"),
        ({"id2label": {}}, "id2label must name the classes 0, 1, ..."),
        ({"id2label": {1: "ham", 2: "spam"}}, "id2label must name the classes"),
        ({"temperature": 0}, "temperature must be above 0, and a number, got 0"),
        ({"temperature": float("nan")}, "temperature must be above 0, and a number, got nan"),
        ({"temperature": float("inf")}, "temperature must be above 0, and a number, got inf"),
        ({"threshold": 0.0}, "threshold must be above 0 and at most 1, or None, got 0.0"),
        ({"threshold": 1.01}, "threshold must be above 0 and at most 1"),
        ({"threshold": float("nan")}, "threshold must be above 0 and at most 1"),
        (
            {"threshold": 0.5, "id2label": {0: "a", 1: "b", 2: "c"}},
            "None of the model's labels is 'spam': 'a', 'b', 'c'",
        ),
        # and what the types refuse
        ({"pooling": "max"}, "expected one of .*'last', 'last_token', 'first', 'mean'.*got max"),
        ({"vocab_size": "64"}, "vocab_size' expected int, got str"),
        ({"n_layer": 2.0}, "n_layer' expected int, got float"),
        ({"causal": 1}, "causal' expected bool, got int"),
        ({"qkv_bias": None}, "qkv_bias' expected bool"),
        ({"pad_token_id": 1.0}, "pad_token_id' with value 1.0"),
        ({"padded_length": True}, "padded_length' with value True"),
        ({"embd_pdrop": "0.1"}, "embd_pdrop' with value '0.1'"),
        ({"temperature": None}, "temperature' with value None"),
        ({"threshold": "0.5"}, "threshold' with value '0.5'"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_built_is_refused(bad, message):
    """Protects the user from finding out at the first batch, or not at all."""
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**bad)


def test_a_configuration_made_bad_later_is_refused_too(tmp_path):
    """Protects what is published: types are checked on assignment, the rest before saving."""
    config = tiny_config()
    with pytest.raises(StrictDataclassError, match="pooling"):
        config.pooling = "max"
    config.n_head = 5
    with pytest.raises(StrictDataclassError, match="multiple of n_head"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_the_defaults_are_gpt2_s_and_the_aliases_the_library_s():
    """Protects tools that ask any model for `hidden_size` or `num_labels`."""
    config, stock = SpamGPTConfig(), GPT2Config()
    for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "layer_norm_epsilon"):
        assert getattr(config, name) == getattr(stock, name), name
    assert config.pad_token_id == config.eos_token_id == stock.eos_token_id
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (768, 12, 12)
    assert config.max_position_embeddings == 1024 and config.is_causal is True
    config.hidden_size = 48
    assert config.n_embd == 48


def test_special_tokens_default_to_the_last_id_of_any_vocabulary(tmp_path):
    """Protects `SpamGPTConfig(vocab_size=99)`, and keeps an id that was given, even GPT-2's, in the file."""
    config = SpamGPTConfig(vocab_size=99)
    assert config.pad_token_id == config.bos_token_id == config.eos_token_id == 98
    SpamGPTConfig(vocab_size=60_000, pad_token_id=50_256).save_pretrained(tmp_path)
    assert SpamGPTConfig.from_pretrained(tmp_path).pad_token_id == 50_256


@pytest.mark.parametrize("tokens", [0, 1, 11, 12, 13, 17, 1000])
@pytest.mark.parametrize("padded_length", [None, PADDED])
def test_the_configuration_knows_how_long_a_message_becomes(tokens, padded_length):
    """Protects everyone who plans batches: what the configuration says is what the model lays out."""
    model = shared_classifier("last", padded_length, True)
    laid_out, lengths = model.lay_out(torch.zeros(1, tokens, dtype=torch.long), torch.ones(1, tokens))
    assert laid_out.shape[1] == model.config.laid_out_length(tokens)
    assert lengths.item() == max(1, min(tokens, model.config.max_tokens))


@pytest.mark.parametrize(
    ("given_", "names"),
    [
        ({}, ["not spam", "spam"]),
        ({"num_labels": 2}, ["not spam", "spam"]),
        ({"id2label": {0: "ham", 1: "spam", 2: "scam"}}, ["ham", "spam", "scam"]),
        ({"id2label": {"0": "ham", "1": "spam"}}, ["ham", "spam"]),
        ({"label2id": {"ham": 0, "spam": 1}}, ["ham", "spam"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}}, ["a", "b", "c"]),
    ],
    ids=str,
)
def test_the_labels_agree_in_both_directions(given_, names, tmp_path):
    """Protects the names a pipeline prints: either direction, or a count, gives the other, also in the file."""
    tiny_config(**given_).save_pretrained(tmp_path)
    for config in (tiny_config(**given_), SpamGPTConfig.from_pretrained(tmp_path)):
        assert config.id2label == dict(enumerate(names)) and config.num_labels == len(names)
        assert config.label2id == {name: i for i, name in enumerate(names)}


def test_a_configuration_survives_its_file(tmp_path):
    """Protects every field, at its default and away from it, and that two instances share no state."""
    away = {
        "n_inner": 20, "embd_pdrop": 0.1, "attn_pdrop": 0.2, "resid_pdrop": 0.3, "layer_norm_epsilon": 1e-6,
        "qkv_bias": False, "pooling": "mean", "padded_length": 7, "causal": False, "bos_token_id": 3,
        "id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "single_label_classification",
    }  # fmt: skip
    for overrides in ({}, away):
        config = tiny_config(**overrides)
        config.save_pretrained(tmp_path)
        assert SpamGPTConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
        assert SpamGPTConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    one, other = tiny_config(), tiny_config()
    one.auto_map["AutoModel"] = one.id2label[0] = "changed"
    assert "changed" not in (other.auto_map["AutoModel"], other.id2label[0])


def test_model_s_and_configuration_s_names_are_those_of_the_design():
    """Protects the parameter names readers of the book know, and those checkpoints are made of."""
    names = set(classifier(n_layer=1).state_dict())
    block = {
        f"gpt.trf_blocks.0.{part}.{kind}"
        for part in (
            "att.W_query", "att.W_key", "att.W_value", "att.out_proj", "ff.layers.0", "ff.layers.2", "norm1", "norm2"
        )
        for kind in ("weight", "bias")
    }  # fmt: skip
    outer = {"gpt.tok_emb.weight", "gpt.pos_emb.weight", "gpt.final_norm.weight", "gpt.final_norm.bias"}
    assert names == block | outer | {"out_head.weight", "out_head.bias"}
    assert SpamGPTConfig.model_type == "spam_gpt"
    assert SpamGPTModel.base_model_prefix == "gpt"
