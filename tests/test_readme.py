"""The Python code, commands, flags and links in README and guides work."""

import contextlib
import functools
import io
import itertools
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
from small_data import MESSAGES

import hf_spam
from hf_spam.cli import cli
from hf_spam.conversion.loading import BUNDLED

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "README.ja.md", "model_card.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [(page, *block) for page in PAGES for block in re.findall(r"```(\w*)\n(.*?)```", TEXTS[page], re.DOTALL)]
# Python code, and what it prints if the next block, which has no language, shows that
EXAMPLES = [
    (page, code, output if following == [page, ""] else "")
    for (page, language, code), (*following, output) in itertools.pairwise([*BLOCKS, ("", "", "")])
    if language == "python"
]
OTHERS = {"--nproc_per_node", "--node_rank", "--machine_rank", "--local-dir"}  # flags of other commands


@pytest.mark.parametrize(("code", "output"), sorted({example[1:] for example in EXAMPLES}))
def test_python_runs_and_prints_what_is_shown(code, output, monkeypatch, tmp_path, request):
    monkeypatch.chdir(tmp_path)
    header, *lines = MESSAGES.read_text(encoding="utf-8").splitlines(keepends=True)
    Path("mine.csv").write_text("".join([header, *lines[::5]]), encoding="utf-8")
    short = {"n_embd": 16, "vocab_size": 300, "max_steps": 4, "eval_freq": 9}
    monkeypatch.setitem(vars(hf_spam), "finetune", functools.partial(hf_spam.finetune, **short))
    if '"spam-onnx' in code:
        shutil.copytree(request.getfixturevalue("onnx_export"), "spam-onnx")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code.replace('"runs/quickstart"', repr(str(BUNDLED))), {})  # stands for a model that a reader has trained
    assert printed.getvalue() and output in ("", printed.getvalue())


def test_pages_show_what_their_examples_print():
    assert {page for page, _, output in EXAMPLES if output} >= {"README.md", "README.ja.md", "docs/scoring.md"}


def parse(command: str) -> None:
    """Parse a command with the real command line, without running it."""
    arguments = shlex.split(command)
    context = cli.make_context("hf-spam", [*arguments])
    with context:
        group = cli
        while isinstance(group, click.Group) and arguments:
            name, group, arguments = group.resolve_command(context, arguments)
            context = group.make_context(name, [*arguments], parent=context)


COMMAND = re.compile(r"(?:hf-spam|python -m hf_spam|(?:torchrun|accelerate) .* -m hf_spam) ([^#|>]*)")
IN_BLOCKS = [
    (page, command.strip())
    for page, language, code in BLOCKS
    if language == "bash"
    for line in code.replace("\\\n", " ").splitlines()
    for command in COMMAND.findall(line)
]
IN_TEXT = [(page, command) for page in PAGES for command in re.findall(r"`hf-spam ([^`]+)`", TEXTS[page])]


def test_commands_exist_with_their_flags():
    assert {page for page, _ in IN_BLOCKS} >= {"README.md", "README.ja.md", "docs/training.md"}
    for page, command in [*IN_BLOCKS, *IN_TEXT]:
        try:
            parse(command)
        except click.exceptions.Exit:  # --help
            pass
        except click.MissingParameter as error:
            assert (page, command) in IN_TEXT, f"{page}: hf-spam {command}: {error.format_message()}"
        except click.UsageError as error:
            pytest.fail(f"{page}: hf-spam {command}: {error.format_message()}")


def test_flags_in_the_text_exist():
    known, commands = set(OTHERS), [cli]
    for command in commands:
        known |= {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
        commands += getattr(command, "commands", {}).values()
    for page, text in TEXTS.items():
        found = {flag for span in re.findall("`([^`\n]+)`", text) for flag in re.findall(r"--[a-z][\w-]+", span)}
        missing = {flag for flag in found if flag not in OTHERS and flag.replace("_", "-") not in known}
        assert missing <= {"--help"}, f"{page}: {missing}"


def test_links_and_scripts_exist():
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)]*)\)", text):
            name, _, anchor = target.partition("#")
            path = (ROOT / page).parent / name if name else ROOT / page
            assert path.exists(), f"{page}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{page}: {target}"
        for name in re.findall(r"scripts/\w+\.(?:sh|py)", text):
            assert (ROOT / name).is_file(), f"{page}: {name}"
