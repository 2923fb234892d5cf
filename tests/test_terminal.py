"""Tables fit the terminal and never break a number, whatever texts they contain."""

import pytest

from hf_spam.terminal import make_table, show


def test_texts_are_shown_as_they_are(capsys):
    """Rich would turn a name between colons into an emoji."""
    show("call :phone: [b]now[/b]")
    assert capsys.readouterr().out == "call :phone: [b]now[/b]\n"


@pytest.mark.parametrize("width", [80, 120])
def test_wide_tables_never_break_numbers(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["label", "messages", "precision", "95 %", "recall", "95 %", "alarms and such"]
    rows = [
        ["billing question", "1,234", "0.9993", "0.600-0.730", "1.0000", "0.972-1.000", "12,345"],
        ["\x1b[31mdelivery\ncomplaint", "9", "0.6683", "0.501-0.988", "0.1234", "0.111-0.222", "98,765"],
    ]
    show(make_table(columns, rows, "Labels"))
    shown = capsys.readouterr().out
    assert all(len(line) <= width for line in shown.splitlines())
    for row in rows:
        assert all(f" {number} " in shown for number in row[1:])
    assert ("alarms and such" in shown) == ("billing question" in shown) == (width == 120) and "\x1b" not in shown
