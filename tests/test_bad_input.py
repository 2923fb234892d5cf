"""A user's mistake gives one line that says what is wrong, a non-zero exit code, and no file left behind.

Mistakes in data files, models and repositories are tested with the modules that read them.
"""

import resource
import shutil
from pathlib import Path

import pytest
from command_line import hf_spam
from safetensors.torch import load_file, save_file
from small_data import MESSAGES, zipped

from hf_spam import load_sms_spam
from hf_spam.conversion.loading import BUNDLED

SMALL = "--recipe pocket --data good.csv --protocol book --n-embd 16 --vocab-size 300 --max-steps 4 --eval-freq 9"
TRAIN = f"train {SMALL} --output-dir out"
BASE = TRAIN.replace("--n-embd 16 --vocab-size 300", "--vocab-size none")
RESUME = f"{TRAIN} --resume-from-checkpoint"
USAGE = 2  # exit code if the command line cannot be parsed; 1 for all other errors


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with good data, a model, a run with a checkpoint, and bad files."""
    folder = tmp_path_factory.mktemp("input")
    messages = load_sms_spam(MESSAGES, protocol="book")["train"]
    messages.select(range(100)).to_csv(folder / "good.csv", index=False)
    messages.select(range(1, 101)).to_csv(folder / "other.csv", index=False)
    shutil.copytree(BUNDLED, folder / "model")
    shutil.copytree(BUNDLED, folder / "base")
    weights = load_file(BUNDLED / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "out_head" not in name}, folder / "base/model.safetensors"
    )
    (folder / "exported/onnx").mkdir(parents=True)
    (folder / "adapter").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert hf_spam(*f"{TRAIN} --output-dir run --save-steps 2".split()).code == 0
    shutil.copytree(folder / "run/checkpoint-2", folder / "damaged")
    (folder / "damaged/training_state/state.json").write_text("{}")
    (folder / "folder").mkdir()
    (folder / "dir/name").mkdir(parents=True)
    for name, content in {
        "text.txt": b"Win a prize",
        "ham.csv": b"label,text\nham,a\nham,b\n",
        "few.csv": b"label,text\nham,a\nspam,b\n",
        "wrong.csv": b"label,text\nspam,see you at home\nham,You have won a FREE prize! Call 09061701461 to claim\n",
        "weights.pth": b"weights",
        "adapter/adapter_config.json": b'{"peft_type": "LORA"}',
        "exported/onnx/model.onnx": b"a graph",
        "slip.zip": zipped({"../../good.tsv": b"ham\ta\nspam\tb\n"}),
    }.items():
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to("loop")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return every file in a folder with its content, and every folder in it."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


# A command, and what its error says: what was found, where, and often what to do.
MISTAKES = {
    # Data
    "evaluate --data gone.csv": ["gone.csv: not a file", "'sample'", "'uci'", "Hub"],
    "evaluate --data gone/SMSSpamCollection": ["gone/SMSSpamCollection: not a file"],
    "evaluate --data folder": ["folder: is a folder without files called train", "name a file in it"],
    "evaluate --data dir/name": ["dir/name: is a folder"],  # whose name looks like a Hub id
    "evaluate --data loop": ["loop: cannot be read", "Too many levels of symbolic links"],
    "evaluate --data a\0.csv": ["a\ufffd.csv: not a file"],
    "evaluate --data \x1b]0;a\x07\x9b31m\udcff.csv": ["\ufffd]0;a\ufffd\ufffd31m\ufffd.csv: not a file"],
    "evaluate --data good.csv --protocol full --seed -1": ["seed", "-1"],
    "evaluate --data good.csv --split test": ["no split 'test'", "good.csv"],
    "train --recipe pocket --output-dir out --data ham.csv": ["ham.csv", "'not spam'", "two classes", "--label-map"],
    "train --recipe pocket --output-dir out --protocol book --data few.csv": ["the book's split needs 5 messages"],
    "train --recipe pocket --output-dir out --data slip.zip": ["slip.zip", "10 different messages"],
    f"{TRAIN} --per-device-train-batch-size 71": ["70 training messages", "a batch of 71"],
    "crossval --data good.csv --folds 1": ["at least 2 folds", "1"],
    "crossval --repeats 0": ["repeats must be at least 1, got 0"],
    "reproduce --rows 20 --output-dir out": ["There is no row 20; the rows are 1 to 19."],
    "reproduce --rows 10,nonesuch --output-dir out": ["Unknown recipe 'nonesuch'; known: book, first-token,"],
    "calibrate out": ["Missing option '--data'", USAGE],
    "calibrate folder --data good.csv": ["folder already exists"],
    "calibrate out --data ham.csv": ["has only 'not spam'"],
    "calibrate out --data wrong.csv --target-fpr 0": ["No threshold gives a false-positive rate"],
    # Settings
    "train --recipe nonesuch": ["'--recipe'", "'nonesuch'", USAGE],
    f"{TRAIN} --max-steps 1.5": ["'--max-steps'", "expected INTEGER or none, got '1.5'", "hf-spam train --help", USAGE],
    f"{TRAIN} --learning-rat 1": ["'--learning-rat'", "Did you mean one of: '--learning-rate'", USAGE],
    f"{TRAIN} now": ["(now)", USAGE],
    "evaluate": ["Missing option '--data'", USAGE],
    "nonesuch": ["'nonesuch'", USAGE],
    f"{TRAIN} --dropout 1.5": ["dropout", "1.5"],
    f"{TRAIN} --seed 4294967296": ["seed", "4294967296"],
    f"{TRAIN} --learning-rate 1e999": ["learning_rate", "inf"],
    f"{TRAIN} --weight-decay nan": ["weight_decay", "nan"],
    f"{TRAIN} --n-embd 18": ["n_embd (18)", "n_head (4)"],
    f"{TRAIN} --n-embd 1000000000": ["n_embd", "1000000000"],
    f"{TRAIN} --vocab-size 1000000000000": ["vocab_size", "1000000000000"],
    f"{TRAIN} --padded-length 500": ["padded_length (500)", "(128)"],
    f"{TRAIN} --save-steps 0": ["save_steps must be at least 1, got 0"],
    "train --recipe book --output-dir out --pretraining-steps 10": ["pretraining_steps needs trainable all"],
    f"{TRAIN} --report-to paper": ["'paper'", "not installed"],
    f"{TRAIN} --hub-model-id me/spam": ["--hub-model-id needs --push-to-hub", USAGE],
    # Models
    f"{BASE} --base folder --tokenizer model": ["No model in 'folder'", "config.json"],
    f"{BASE} --base weights.pth --tokenizer model": ["No model in 'weights.pth'", "it is a file"],
    f"{TRAIN} --base somewhere/else": ["vocab_size", "needs base random"],
    f"{BASE} --base random": ["base random needs a tokenizer", "vocab_size"],
    f"{BASE} --tokenizer folder": ["No tokenizer in 'folder'", "--tokenizer"],
    "classify hi --model folder": ["No model in 'folder'", "config.json"],
    "classify hi --model ./gone": ["No model in './gone'", "no such folder"],
    "classify hi --model text.txt": ["No model in 'text.txt'", "file"],
    "classify hi --model no/where": ["no/where: no such file or folder; model not found on the Hub"],
    "import-weights folder out": ["No model in 'folder'"],
    "import-weights gone.pth out": ["gone.pth"],
    "import-weights folder model": ["model already exists and is not an empty folder"],
    "export bundled out": ["Missing option '--format'", "gpt2", "onnx", USAGE],
    "export bundled out --format tflite": ["'tflite' is not one of 'gpt2', 'onnx'", USAGE],
    "export bundled folder --format gpt2": ["folder already exists; choose another"],
    "export bundled text.txt --format onnx": ["text.txt already exists; choose another"],
    "export bundled text.txt/out --format gpt2": ["text.txt/out cannot be written (Not a directory); choose another"],
    "export bundled /proc/out --format onnx": ["/proc/out cannot be written", "choose another folder"],
    "export gone-model/x out --format onnx": ["gone-model/x: no such file or folder; model not found on the Hub"],
    "export base out --format gpt2 --data good.csv": ["'base' is a base model without a", "hf-spam train"],
    "export adapter out --format gpt2": ["'adapter' cannot be loaded: the adapter cannot be read", "is needed"],
    "export exported/onnx/model.onnx out --format onnx": ["is an ONNX export; export the model"],
    "push model": ["owner/name", "--resume", USAGE],
    # Output and checkpoints
    "evaluate --data good.csv --output-dir text.txt": ["Directory 'text.txt' is a file", USAGE],
    f"{TRAIN} --output-dir run": ["run is not empty", "--overwrite-output-dir"],
    f"{TRAIN} --output-dir text.txt": ["File exists", "text.txt"],
    f"{TRAIN} --output-dir text.txt/out": ["Not a directory", "text.txt/out"],
    f"{TRAIN} --output-dir /proc/out": ["/proc/out"],
    f"{RESUME} folder": ["folder is incomplete", "manifest.json"],
    f"{RESUME} damaged": ["damaged", "training_state/state.json"],
    f"{RESUME} run/checkpoint-2 --learning-rate 0.5 --seed 9": ["0.001", "0.5", "123", "9", "--base run/checkpoint-2"],
    f"{RESUME} run/checkpoint-2 --data other.csv": ["hash of the train messages was "],
    f"{RESUME} run/checkpoint-2 --max-steps 2": ["run/checkpoint-2", "3 steps", "the 2 of"],
    f"{RESUME} hub": ["--push-to-hub", "--hub-model-id"],
}


@pytest.mark.parametrize("command", MISTAKES, ids=lambda command: ascii(command.replace(SMALL, "...")))
def test_user_errors_are_one_clear_line(command, prepared, monkeypatch):
    *words, code = [*MISTAKES[command], 1] if MISTAKES[command][-1] != USAGE else MISTAKES[command]
    monkeypatch.chdir(prepared)
    before = files(prepared.parent)
    done = hf_spam(*command.split(" "))
    *log, error = done.err.splitlines()
    assert done.code == code and done.out == "" and all(" messages: " in line for line in log), done
    assert error.startswith("hf-spam: ") and all(word in error for word in words), done.err
    assert files(prepared.parent) == before


@pytest.mark.parametrize(("size", "reason"), [(10_000, "File too large"), (40_000, "I/O error: File too large")])
def test_a_full_disk_leaves_no_model(size, reason, prepared, monkeypatch, tmp_path):
    """Whichever file of the model does not fit."""
    monkeypatch.chdir(prepared)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        done = hf_spam(*f"{TRAIN} --output-dir {tmp_path}/out".split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = done.err.splitlines()[-1]
    assert done.code == 1 and done.out == "" and error.startswith("hf-spam: "), done
    assert f"{tmp_path}/out" in error and reason in error
    assert not (tmp_path / "out").exists()
