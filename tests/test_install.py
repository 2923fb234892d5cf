"""`pip install hf-spam` is enough to classify and score, and commands that need the extra `train` say so.

The packages of the extra are hidden, so that no import of one can creep in.
"""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

from hf_spam.entry import QUIET

ROOT = Path(__file__).parents[1]
EXTRA = re.search(r"^train = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)[1]
TRAIN = {{"scikit-learn": "sklearn"}.get(name, name) for name in re.findall(r'"([\w-]+)', EXTRA)}
WITHOUT_TRAIN = """
import importlib, json, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context):
        return () if context.name in HIDDEN else super().find_distributions(context)

HIDDEN = sys.argv[1].split(",")
sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]

import hf_spam
assert not {"torch", "transformers", "numpy"} & set(sys.modules), "the package is imported slowly"

def run(*arguments):
    from hf_spam.cli import main
    sys.argv = ["hf-spam", *arguments]
    try:
        main()
    except SystemExit as exit:
        return exit.code

assert run("classify", "Free entry! Txt WIN to 10010") == 0
assert not {"torch", "transformers", "huggingface_hub"} & set(sys.modules), "classify starts slowly"
assert run("score", "in.csv", "out.csv") == 0
assert not {"torch", "transformers", "pandas"} & set(sys.modules), "score starts slowly"
assert run("score", "in.csv", "out.parquet") == 1
assert run("train", "--recipe", "pocket", "--data", "in.csv") == 1
# People use these without the extra; `hub.dataset`, for one, needs it.
for module in ("hub.push", "hub.space", "conversion.import_weights"):
    importlib.import_module(f"hf_spam.{module}")
from hf_spam import SpamClassifier
from hf_spam.files import BUNDLED
from transformers import pipeline
for task in ("text-classification", "spam-classification"):
    print(pipeline(task, model=str(BUNDLED))("see you at home")[0]["label"])
import huggingface_hub as hub, transformers
quiet = hub.logging.get_verbosity(), hub.utils.are_progress_bars_disabled()
print(json.dumps([*quiet, transformers.logging.get_verbosity()]))
"""


def test_classify_score_and_pipeline_work_without_the_extra(tmp_path):
    """Libraries are quiet, unless the user says otherwise."""
    (tmp_path / "in.csv").write_text('text,id\nFree entry! Txt WIN to 10010,1\n"see you, at home",2\n,3\n')
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "info"}
    command = [sys.executable, "-c", WITHOUT_TRAIN, ",".join(TRAIN)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, spam, ham, empty = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "text,id,label,score" and ",1,spam,0.9" in spam and ",2,not spam,0.9" in ham and empty == ",3,,"
    assert not list(tmp_path.glob("out.parquet*"))
    lines = [line for line in done.stderr.splitlines() if "hf-spam[train]" in line]
    hints = [re.fullmatch(r'hf-spam: (\w+) is not installed: pip install "hf-spam\[train\]"', line) for line in lines]
    assert len(hints) == 2 and all(hint and hint[1] in TRAIN for hint in hints), lines
    assert done.stdout.splitlines()[-3:] == ["not spam", "not spam", f"[{logging.ERROR}, true, {logging.INFO}]"]
