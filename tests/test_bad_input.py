"""What people get wrong, and the exact line that they see; nothing half-written is left.

Here are the mistakes of the command line as a whole. Those of data files are in `data/test_formats.py`, of models in
`modeling/test_loading.py` and `modeling/test_import_weights.py`, of the Hub in `hub/test_errors.py`.
"""

import errno
import io
import resource
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from hf_spam import load_sms_spam
from hf_spam.cli import main
from hf_spam.evaluation.plots import plot_values
from hf_spam.inference.classifier import POCKET

TRAIN = ["train", "--recipe", "pocket", "--data", "good.csv", "--protocol", "book", "--n-embd", "16"]
TRAIN += ["--vocab-size", "300", "--max-steps", "4", "--eval-freq", "9", "--output-dir", "out"]
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
EVALUATE = ["evaluate", "--data"]
TRAIN_ON = ["train", "--recipe", "pocket", "--output-dir", "out", "--data"]
NAMES = "sample', 'uci' or a Hub dataset id 'owner/name'"
KNOWN = "known: ham, not spam, not_spam, 0, 0.0, false, spam, 1, 1.0, true"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with good data, a model, a run with a checkpoint, and what is no good."""
    folder = tmp_path_factory.mktemp("input")
    good = load_sms_spam("sample", protocol="book")["train"].select(range(100))
    good.to_csv(folder / "good.csv", index=False)
    shutil.copytree(POCKET, folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert hf_spam(patch, *TRAIN, "--save-steps", "2") == 0
    (folder / "out").rename(folder / "run")
    shutil.copytree(folder / "run/checkpoint-2", folder / "damaged")
    (folder / "damaged/training_state/state.json").write_text("{}")
    (folder / "folder").mkdir()
    for name, content in {
        "text.txt": b"Win a prize",
        "table.xlsx": b"PK",
        "utf16.csv": "label,text\nham,a\n".encode("utf-16"),
        "labels.csv": b"label,text\nham,a\nmaybe,b\n",
        "ham.csv": b"label,text\nham,a\nham,b\n",
        "few.csv": b"label,text\nham,a\nspam,b\n",
        "slip.zip": zipped("../../good.tsv", b"ham\ta\nspam\tb\n"),
        "weights.pth": b"weights",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to("loop")
    return folder


def zipped(member: str, content: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(member, content)
    return data.getvalue()


def hf_spam(monkeypatch, *arguments: str) -> int:
    """The exit code of the command, in this process."""
    monkeypatch.setattr(sys, "argv", ["hf-spam", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


# Arguments, what is written, and the code: 2 for a command line that cannot be read, 1 for all else.
MISTAKES = {
    "no such file": ([*EVALUATE, "gone.csv"], f"gone.csv: no such file (nor '{NAMES})", 1),
    "a folder": ([*EVALUATE, "folder"], "folder: cannot be read ([Errno 21] Is a directory: 'folder')", 1),
    "a link to itself": (
        [*EVALUATE, "loop"],
        "loop: cannot be read ([Errno 40] Too many levels of symbolic links: 'loop')",
        1,
    ),
    "a NUL in a name": ([*EVALUATE, "a\0.csv"], "a\ufffd.csv: cannot be read (embedded null byte)", 1),
    "a name that drives a terminal": (
        [*EVALUATE, "\x1b]0;a\x07\x9b31m\udcff.csv"],
        f"\ufffd]0;a\ufffd\ufffd31m\ufffd.csv: no such file (nor '{NAMES})",
        1,
    ),
    "no name": ([*EVALUATE, ""], "the name of the data is empty", 1),
    "a spreadsheet": (
        [*EVALUATE, "table.xlsx"],
        "table.xlsx: unknown extension; known: .tsv, .csv, .jsonl, .json, .parquet, .zip",
        1,
    ),
    "UTF-16": ([*EVALUATE, "utf16.csv"], "utf16.csv: it is UTF-16; save it as UTF-8", 1),
    "an unknown label": ([*EVALUATE, "labels.csv"], f"labels.csv, line 3: unknown label 'maybe'; {KNOWN}", 1),
    "one class": ([*TRAIN_ON, "ham.csv"], "ham.csv: every message is 'not spam'; both labels are needed", 1),
    "too few": (
        [*TRAIN_ON, "few.csv"],
        "few.csv: a 70/10/20 split needs 10 different messages of each label; 'not spam' has 1: add some",
        1,
    ),
    "too few to train on": (
        [*TRAIN, "--per-device-train-batch-size", "71"],
        "70 training messages do not fill one batch of 71.",
        1,
    ),
    "a seed below zero": (
        [*EVALUATE, "good.csv", "--seed", "-1"],
        "the seed must be a whole number from 0 to 2**32 - 1, got -1",
        1,
    ),
    "a large seed": (
        [*TRAIN, "--seed", "4294967296"],
        "Recipe 'pocket': seed must lie between 0 and 2**32 - 1, got 4294967296.",
        1,
    ),
    "an endless rate": (
        [*TRAIN, "--learning-rate", "1e999"],
        "Recipe 'pocket': learning_rate must be a number, got inf.",
        1,
    ),
    "no rate": ([*TRAIN, "--learning-rate", "0"], "Recipe 'pocket': learning_rate must be positive, got 0.0.", 1),
    "a decay that is none": (
        [*TRAIN, "--weight-decay", "nan"],
        "Recipe 'pocket': weight_decay must be a number, got nan.",
        1,
    ),
    "heads that do not fit": (
        [*TRAIN, "--n-embd", "18"],
        "Recipe 'pocket': n_embd (18) must be a multiple of n_head (4).",
        1,
    ),
    "a network beyond all memory": (
        [*TRAIN, "--n-embd", "1000000000"],
        "Recipe 'pocket': n_embd must be at most 100000, got 1000000000.",
        1,
    ),
    "a billion blocks": (
        [*TRAIN, "--n-layer", "1000000000"],
        "Recipe 'pocket': n_layer must be at most 1000, got 1000000000.",
        1,
    ),
    "a vocabulary beyond all memory": (
        [*TRAIN, "--vocab-size", "1000000000000"],
        "Recipe 'pocket': vocab_size must be at most 1000000, got 1000000000000.",
        1,
    ),
    "a vocabulary without the bytes": (
        [*TRAIN, "--vocab-size", "10"],
        "Recipe 'pocket': vocab_size must be at least 257, got 10.",
        1,
    ),
    "more padding than positions": (
        [*TRAIN, "--padded-length", "500"],
        "padded_length (500) must lie in 1..n_positions (128).",
        1,
    ),
    "half a step": (
        [*TRAIN, "--max-steps", "1.5"],
        "Invalid value for '--max-steps': '1.5' is not INT|none. (see hf-spam train --help)",
        2,
    ),
    "an unknown flag": (
        [*TRAIN, "--learning-rat", "1"],
        "No such option '--learning-rat'. Did you mean '--learning-rate'? (see hf-spam train --help)",
        2,
    ),
    "a word too many": ([*TRAIN, "now"], "Got unexpected extra argument (now) (see hf-spam train --help)", 2),
    "no data": (["evaluate"], "Missing option '--data'. (see hf-spam evaluate --help)", 2),
    "a base of nothing": (
        [*TRAIN, "--vocab-size", "none", "--base", "folder", "--tokenizer", "model"],
        "No model in 'folder': there is no config.json that names a model_type.",
        1,
    ),
    "a base of something else": (
        [*TRAIN, "--vocab-size", "none", "--base", "weights.pth", "--tokenizer", "model"],
        "weights.pth is not a torch.save file that loads without running code.",
        1,
    ),
    "a folder without a tokenizer": (
        [*TRAIN, "--vocab-size", "none", "--tokenizer", "folder"],
        "No tokenizer in the folder 'folder' (tokenizer.json, or vocab.json and merges.txt): save one there, or name "
        "one with --tokenizer of train or import-weights. (Couldn't instantiate the backend tokenizer from one of: )",
        1,
    ),
    "no model": (
        ["classify", "hi", "--model", "folder"],
        "No model in 'folder': there is no config.json that names a model_type.",
        1,
    ),
    "no folder for a model": (
        ["classify", "hi", "--model", "./gone"],
        "No model in './gone': there is no such folder.",
        1,
    ),
    "a file for a model": (
        ["classify", "hi", "--model", "text.txt"],
        "No model in 'text.txt': it is a file; a model's folder or a Hub id is needed.",
        1,
    ),
    "no checkpoint": (
        [*TRAIN, "--resume-from-checkpoint", "folder"],
        "folder is no checkpoint; a folder such as runs/pocket/checkpoint-100 would be one.",
        1,
    ),
    "a damaged checkpoint": (
        [*TRAIN, "--resume-from-checkpoint", "damaged"],
        "damaged is damaged: training_state/state.json has changed since it was written",
        1,
    ),
    "a checkpoint of another run": (
        [*TRAIN, "--resume-from-checkpoint", "run/checkpoint-2", "--learning-rate", "0.5", "--max-steps", "9"],
        "run/checkpoint-2 belongs to another run: max_steps was 4 and is 9; learning_rate was 0.001 and is 0.5. Resume "
        "with what it had, start anew in another --output-dir, or go on all the same with --allow-differences.",
        1,
    ),
    "a checkpoint of another network": (
        [*TRAIN, "--resume-from-checkpoint", "run/checkpoint-2", "--n-positions", "64", "--allow-differences"],
        "run/checkpoint-2 does not fit this run: ",
        1,
    ),
    "a checkpoint from a Hub without a name": (
        [*TRAIN, "--resume-from-checkpoint", "hub"],
        "Resuming from the Hub needs the repository: give --push-to-hub and --hub-model-id.",
        1,
    ),
    "checkpoints at no step": ([*TRAIN, "--save-steps", "0"], "save_steps must be at least 1, got 0.", 1),
    "an output directory that is full": (
        [*TRAIN, "--output-dir", "run"],
        "run is not empty: give another --output-dir, or --overwrite-output-dir.",
        1,
    ),
    "a file for an output directory": (
        [*TRAIN, "--output-dir", "text.txt"],
        "text.txt is a file: give another --output-dir.",
        1,
    ),
    "a file on the way to it": (
        [*TRAIN, "--output-dir", "text.txt/out"],
        "[Errno 20] Not a directory: 'text.txt/out'",
        1,
    ),
    "an unknown tracker": (
        [*TRAIN, "--report-to", "paper"],
        "The tracker 'paper' is not installed (or not known to Accelerate).",
        1,
    ),
    "a name for nothing": (
        [*TRAIN, "--hub-model-id", "me/spam"],
        "--hub-model-id needs --push-to-hub. (see hf-spam train --help)",
        2,
    ),
    "weights of nothing": (
        ["import-weights", "folder", "out"],
        "folder/config.json cannot be read: [Errno 2] No such file or directory: 'folder/config.json'",
        1,
    ),
    "nothing to push": (
        ["push", "folder", "me/spam"],
        "folder holds no model: config.json or model.safetensors is missing.",
        1,
    ),
    "nowhere to push to": (
        ["push", "model"],
        "Name the repository to push to, owner/name; or --resume, to send what waits.",
        1,
    ),
}


def files(folder: Path) -> dict[str, bytes]:
    """All that is in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, prepared, monkeypatch, capfd):
    """A message that ends in ": " is followed by what a library says."""
    arguments, message, code = MISTAKES[mistake]
    monkeypatch.chdir(prepared)
    before = files(prepared)
    assert hf_spam(monkeypatch, *arguments) == code
    printed = capfd.readouterr()
    lines = [line for line in printed.err.splitlines() if line and not line.startswith("good.csv: ")]
    assert printed.out == "" and len(lines) == 1, printed
    assert lines[0].startswith(f"hf-spam: {message}") if message.endswith(": ") else lines[0] == f"hf-spam: {message}"
    assert files(prepared) == before


def test_a_member_of_a_zip_stays_in_it(prepared, monkeypatch, capfd):
    """Whatever its name says, it is read and not unpacked."""
    monkeypatch.chdir(prepared)
    before = {path for path in prepared.parent.rglob("*")}
    assert hf_spam(monkeypatch, *TRAIN_ON, "slip.zip") == 1
    assert "slip.zip: a 70/10/20 split needs 10 different messages" in capfd.readouterr().err
    assert {path for path in prepared.parent.rglob("*")} == before


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (10_000, "[Errno 27] File too large"),
        (40_000, "Error while serializing: I/O error: File too large (os error 27)"),
    ],
)
def test_a_disk_that_is_full(size, reason, prepared, monkeypatch, capfd, tmp_path):
    """At the end of a run: nothing half-written is left, and no model that is none."""
    monkeypatch.setattr("hf_spam.training.output.plot_values", plot_values)  # which are written first
    monkeypatch.chdir(prepared)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        code = hf_spam(monkeypatch, *TRAIN, "--output-dir", str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    printed = capfd.readouterr()
    assert code == 1 and printed.out == ""
    assert printed.err.splitlines()[-1] == f"hf-spam: The model was not written to {tmp_path / 'out'}: {reason}."
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP 1 is not supported: shard with FSDP 2 (--use_fsdp --fsdp_version 2)."),
        (
            {"ACCELERATE_USE_MEGATRON_LM": "true"},
            "Megatron-LM is not supported: shard with FSDP 2 (--use_fsdp --fsdp_version 2).",
        ),
        (
            {**FSDP, "FSDP_OFFLOAD_PARAMS": "true"},
            "FSDP's offloading to the CPU is not supported: launch without --fsdp_offload_params.",
        ),
        (
            {**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "FSDP's activation checkpointing is not supported: launch without --fsdp_activation_checkpointing.",
        ),
        (FSDP, "FSDP and DeepSpeed need processes that have a GPU (or its like) each: launch without them."),
    ],
)
def test_weights_in_shards(environment, problem, prepared, monkeypatch, capfd):
    """As `accelerate launch` asks for them; what was saved would not be the model, or not that of the same run."""
    monkeypatch.chdir(prepared)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hf_spam(monkeypatch, *TRAIN, "--adversarial-epsilon", "0") == 1
    assert capfd.readouterr().err == f"hf-spam: {problem}\n"


def test_a_disk_that_is_read_only(prepared, monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(prepared)

    def mkdir(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert hf_spam(monkeypatch, *TRAIN) == 1
    assert capfd.readouterr().err == "hf-spam: [Errno 30] Read-only file system: 'out'\n"
