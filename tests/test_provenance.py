"""What a card, a report and a checkpoint say of where they are from."""

import pytest

from hf_spam.provenance import public, versions


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/data.csv", "data.csv"),
        ("../data.csv", "data.csv"),
        ("~/data.csv", "data.csv"),
        ("a/b/c.csv", "c.csv"),
        ("owner/name", "owner/name"),
        ("uci", "uci"),
        (5, 5),
        (None, None),
    ],
)
def test_public(value, shown):
    assert public(value) == shown


def test_versions_are_those_installed():
    import torch

    assert versions()["torch"] == torch.__version__
