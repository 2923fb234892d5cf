"""A model works with the ecosystem: saving, loading, compilation and training.

These are the checks of the common model tests of `transformers` that apply to a text classifier, written out because
they are not part of its wheel. Remote code is tested with the pipeline, export with ONNX.
"""

import copy

import accelerate
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import PAD, POSITIONS, WIDTH, build, close
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, Trainer, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_spam.data.batching import PadRight
from hf_spam.modeling.modeling_spam_gpt import SpamGPTForSequenceClassification, SpamGPTModel

LABELS = {0: "ham", 1: "spam", 2: "scam"}
both_models = pytest.mark.parametrize("architecture", [SpamGPTModel, SpamGPTForSequenceClassification])


def batch(rows: int = 4, width: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """Messages of several lengths, the last of them empty, padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(PAD, (rows, width), generator=draw)
    lengths = torch.linspace(width, 0, rows).long()
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def answer(model, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**(inputs or batch()))[0]


# --- files


@pytest.mark.parametrize(
    ("architecture", "max_shard_size"), [(SpamGPTModel, "1GB"), (SpamGPTForSequenceClassification, "20KB")]
)
def test_save_and_load_are_exact(architecture, max_shard_size, tmp_path):
    """Protects checkpoints: weights, answers, names and labels, in one file or in shards, without pickle."""
    model = build(architecture, id2label=LABELS, pooling="mean", qkv_bias=False, padded_length=7)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert not [f for f in tmp_path.iterdir() if f.suffix not in (".json", ".py", ".safetensors")]
    loaded, info = architecture.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert not loaded.training
    assert torch.equal(answer(loaded), answer(model))
    assert loaded.config.id2label == LABELS and loaded.config.label2id == {"ham": 0, "spam": 1, "scam": 2}
    weights = {}
    for file in tmp_path.glob("*.safetensors"):
        weights |= load_file(file)
    assert set(weights) == set(model.state_dict())
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "20KB")


def test_loading_with_and_without_a_head(tmp_path):
    """Protects fine-tuning: the network comes from the file, and the new head is exactly a fresh `nn.Linear`."""
    base = build(SpamGPTModel)
    base.save_pretrained(tmp_path)
    torch.manual_seed(1)
    model, info = SpamGPTForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"out_head.weight", "out_head.bias"} and not info["unexpected_keys"]
    torch.manual_seed(1)
    head = nn.Linear(WIDTH, 2)
    assert torch.equal(model.out_head.weight, head.weight) and torch.equal(model.out_head.bias, head.bias)
    model.save_pretrained(tmp_path)
    again, info = SpamGPTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["unexpected_keys"] == {"out_head.weight", "out_head.bias"} and not info["missing_keys"]
    for network in (model.gpt, again):
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), base.parameters(), strict=True))


def test_missing_tensors_are_initialized(tmp_path):
    """Protects against tensors that loading on the meta device leaves uninitialized without a warning."""
    model = build(initializer_range=0.05)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = {name for name in weights if "trf_blocks.1" in name or "emb" in name or "norm" in name}
    save_file({k: v for k, v in weights.items() if k not in gone}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, info = SpamGPTForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == gone
    for name, tensor in loaded.state_dict().items():
        if name not in gone:
            assert (tensor == 7).all(), name
        elif name.endswith("bias"):
            assert (tensor == 0).all(), name
        elif "norm" in name:
            assert (tensor == 1).all(), name
        else:
            assert abs(tensor.mean()) < 0.01 and 0.045 < tensor.std() < 0.055, name


def test_offloading_to_disk(tmp_path):
    """Protects `device_map`: no block is split, and every weight is used through its module."""
    model = build(n_layer=3)
    sizes = accelerate.utils.compute_module_sizes(model)
    room = sizes["gpt.tok_emb"] + sizes["gpt.pos_emb"] + 2.5 * sizes["gpt.trf_blocks.0"]
    devices = accelerate.infer_auto_device_map(
        model, {"cpu": room, "disk": 10 * room}, no_split_module_classes=model._no_split_modules
    )
    assert [devices[f"gpt.trf_blocks.{i}"] for i in range(3)] == ["cpu", "disk", "disk"]
    model.save_pretrained(tmp_path / "model")
    offloaded = SpamGPTForSequenceClassification.from_pretrained(
        tmp_path / "model", device_map={**devices, "gpt.tok_emb": "disk"}, offload_folder=tmp_path / "offload"
    )
    assert offloaded.gpt.tok_emb.weight.is_meta and offloaded.gpt.trf_blocks[1].att.W_query.weight.is_meta
    embeds = {"inputs_embeds": model.gpt.tok_emb(batch()["input_ids"]), "attention_mask": batch()["attention_mask"]}
    for inputs in (batch(), embeds):
        close(answer(offloaded, **inputs), answer(model, **inputs))


@both_models
def test_embeddings_can_be_replaced_and_resized(architecture):
    """Protects added tokens: resizing the vocabulary does not change the answers for the old ids."""
    model = build(architecture, pad_token_id=0)
    other, replacement = copy.deepcopy(model), nn.Embedding(64, WIDTH)
    other.set_input_embeddings(replacement)
    assert other.get_input_embeddings() is other.base_model.tok_emb is replacement
    inputs = {"input_ids": batch()["input_ids"] % 50}
    expected = answer(model, **inputs)
    for size in (80, 50):
        model.resize_token_embeddings(size)
        assert model.get_input_embeddings().weight.shape == (size, WIDTH) and model.config.vocab_size == size
        assert torch.equal(answer(model, **inputs), expected)


def test_registered_attention_is_used():
    """Protects `_supports_attention_backend`: kernels from the Hub and serving engines plug in by name."""
    calls = []

    def spy(module, query, key, value, attention_mask, **kwargs):
        calls.append((module.layer_idx, tuple(query.shape), kwargs["is_causal"], kwargs["scaling"], kwargs["mark"]))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", sdpa_mask)
    try:
        for causal in (True, False):
            model = build(causal=causal)
            expected = answer(model)
            model.set_attn_implementation("spy")
            calls.clear()
            close(answer(model, **batch(), mark="through"), expected)  # here the last block reads every position
            assert calls == [(i, (4, 4, 9, 8), causal, 8**-0.5, "through") for i in range(2)]
    finally:
        AttentionInterface._global_mapping.pop("spy")
        AttentionMaskInterface._global_mapping.pop("spy")


# --- export and compilation


def test_compiled_model_matches_eager():
    """Protects `torch.compile(fullgraph=True)`: no graph break in forward or backward.

    The backend "aot_eager" traces everything that "inductor" compiles, in a tenth of the time.
    """
    torch._dynamo.reset()
    model = build(n_layer=1)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    inputs = {**batch(), "labels": torch.tensor([0, 1, 1, 0])}
    outputs = [network(**inputs) for network in (model, compiled)]
    close(outputs[1].logits, outputs[0].logits)
    close(outputs[1].loss, outputs[0].loss)
    for output in outputs:
        output.loss.backward()
    for a, b in zip(model.parameters(), compiled.parameters(), strict=True):
        close(a.grad, b.grad)


# --- training


def random_messages(count: int = 24) -> list[dict]:
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, POSITIONS, (count,), generator=draw).tolist()
    return [{"input_ids": torch.randint(PAD, (n,), generator=draw).tolist(), "labels": n % 2} for n in lengths]


def test_trainer_accumulates_gradients_correctly(tmp_path):
    """Protects fine-tuning with `Trainer`: two accumulated batches of 4 train like one of 8."""
    together, accumulated = models = [build(initializer_range=0.1) for _ in range(2)]
    for model, batches in zip(models, (1, 2), strict=True):
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=8 // batches, gradient_accumulation_steps=batches,
            optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0, num_train_epochs=1,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=1,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=random_messages(), data_collator=PadRight(PAD)).train()
    assert not torch.allclose(together.out_head.weight, build(initializer_range=0.1).out_head.weight, atol=1e-3)
    for (name, a), b in zip(together.named_parameters(), accumulated.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5, msg=name)


LORA = {"task_type": "SEQ_CLS", "target_modules": ["W_query", "W_value"], "r": 2}


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["out_head"]}, {"target_modules": "all-linear"}])
@pytest.mark.parametrize("num_labels", [2, 3])
def test_lora_with_peft(num_labels, settings, tmp_path):
    """Protects PEFT adapters: they and the head are trained, saved and loaded, and merging keeps the answers.

    PEFT looks for a head called `classifier`, as which `out_head` is known to it and to nothing else.
    """
    build().save_pretrained(tmp_path / "base")
    new_labels = {} if num_labels == 2 else {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    model = SpamGPTForSequenceClassification.from_pretrained(tmp_path / "base", **new_labels)
    original, untrained = copy.deepcopy(model), answer(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{**LORA, **settings}))
    close(answer(adapted), untrained)  # with adapters, key and value modules are called, which sums in another order
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    heads = {name for name in trained if "lora_" not in name}
    assert len(heads) == 2 and all(".out_head.modules_to_save." in name for name in heads) and len(trained) > 2
    optimizer = torch.optim.SGD(trained.values(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**PadRight(PAD)(random_messages())).loss.backward()
        assert all(parameter.grad is not None for parameter in trained.values())
        optimizer.step()
    adapted.eval()
    expected = answer(adapted)
    assert not torch.allclose(expected, untrained, atol=1e-3)
    adapted.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {name for name in saved if "lora_" not in name} == {
        "base_model.model.out_head.weight",
        "base_model.model.out_head.bias",
    }
    auto = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", **new_labels).eval()
    reloaded = peft.PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / "adapter").eval()
    assert torch.equal(answer(auto), expected) and torch.equal(answer(reloaded), expected)
    merged = reloaded.merge_and_unload()
    assert type(merged) is SpamGPTForSequenceClassification and list(merged.state_dict()) == list(original.state_dict())
    close(answer(merged), expected)


def test_the_name_that_peft_knows_the_head_by_adds_no_parameter(tmp_path):
    """Protects parameter names, safetensors files and tied-weight checks from the alias of the head."""
    model = build()
    assert model.classifier is model.out_head and "classifier" not in dict(model.named_children())
    for names in (model.state_dict(), *(dict(model.named_parameters(remove_duplicate=each)) for each in (True, False))):
        assert [name for name in names if "head" in name or "class" in name] == ["out_head.weight", "out_head.bias"]
    model.classifier = nn.Linear(WIDTH, 2)
    model.save_pretrained(tmp_path)
    loaded, info = SpamGPTForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and torch.equal(answer(loaded), answer(model))
