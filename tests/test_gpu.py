"""On a GPU, the answers and the training of a CPU. Run by scripts/gpu_check.py, or pytest -m gpu."""

import json
import os
import subprocess
import sys

import pytest
import torch
from small_data import MESSAGES
from small_runs import NO_DROPOUT, SMALL
from tiny_models import MESSAGES as IDS
from tiny_models import READINGS, build, close, right
from tricky_texts import tricky_texts

from hf_spam import SpamClassifier, finetune, load_sms_spam
from hf_spam.data.sources import read_messages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize(("pooling", "padded_length", "causal"), READINGS)
def test_logits_are_those_of_the_cpu(pooling, padded_length, causal):
    model = build(pooling=pooling, padded_length=padded_length, causal=causal)
    ids, mask = right(IDS)
    with torch.inference_mode():
        expected = model(ids, mask).logits
        close(model.cuda()(ids.cuda(), mask.cuda()).logits.cpu(), expected, 1e-4)


def test_classifier_chooses_the_gpu_and_gives_the_same_answers():
    texts = [*tricky_texts(100), *read_messages("sample")["text"][:1000]]
    on_gpu, on_cpu = SpamClassifier.from_pretrained(), SpamClassifier.from_pretrained(device="cpu")
    assert on_gpu.model.device.type == "cuda"
    assert on_gpu.predict(texts) == on_cpu.predict(texts)
    torch.testing.assert_close(on_gpu.logits(texts), on_cpu.logits(texts), atol=1e-3, rtol=1e-3)


def test_bfloat16_changes_few_labels():
    texts = read_messages("sample")["text"][:1000]
    half, full = SpamClassifier.from_pretrained(dtype="bfloat16"), SpamClassifier.from_pretrained()
    differ = sum(a != b for a, b in zip(half.predict(texts), full.predict(texts), strict=True))
    assert differ <= 10, differ


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_resumes(precision, tmp_path):
    settings = {**SMALL, **NO_DROPOUT, "mixed_precision": precision, "max_steps": 24, "eval_freq": 8}
    data = load_sms_spam(MESSAGES)
    whole = finetune("pocket", data=data, **settings)
    finetune("pocket", data=data, **settings, output_dir=str(tmp_path / "run"), save_steps=8)
    again = finetune(
        "pocket", data=data, **settings, output_dir=str(tmp_path / "run"), overwrite_output_dir=True, save_steps=8,
        resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-16"),
    )  # fmt: skip
    # Sums of gradients are not in the same order each time on a GPU.
    assert again.history.train_losses == pytest.approx(whole.history.train_losses, abs=1e-2)


def test_losses_in_float32_are_those_of_the_cpu(tmp_path):
    settings = {**SMALL, **NO_DROPOUT, "max_steps": 12, "eval_freq": 3}
    on_gpu = finetune("pocket", data=load_sms_spam(MESSAGES), **settings).history.train_losses
    flags = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "hf_spam", "train", "--recipe=pocket", f"--data={MESSAGES}", *flags]
    without_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, f"--output-dir={tmp_path / 'run'}"], env=without_gpu, check=True)
    on_cpu = json.loads((tmp_path / "run" / "history.json").read_text())["train_losses"]
    assert on_gpu == pytest.approx(on_cpu, abs=1e-3)
