"""How the answers of a runtime for an export of the bundled model compare with the model's."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hf_spam import SpamClassifier
from hf_spam.conversion import parity
from hf_spam.conversion.parity import Runtime
from hf_spam.data.sources import read_texts
from hf_spam.modeling.configuration_spam_gpt import decide


@pytest.fixture(scope="session")
def messages() -> list[str]:
    return read_texts("sample")


@pytest.fixture(scope="session")
def classifier() -> SpamClassifier:
    return SpamClassifier.from_pretrained("bundled")


@pytest.fixture(scope="session")
def expected(classifier: SpamClassifier, messages: list[str]) -> np.ndarray:
    return classifier.predict_proba(messages)


@pytest.fixture
def agreement(request, messages, classifier, expected, tmp_path, monkeypatch) -> Callable[[Runtime], dict[str, Any]]:
    """Return how a runtime's answers for all messages of the sample, and for awkward ones, compare with the model's."""

    def run(runtime: Runtime) -> dict[str, Any]:
        monkeypatch.setattr(parity, "RUNTIMES", [runtime])
        folder = shutil.copytree(request.getfixturevalue(f"{runtime.format}_export"), tmp_path / "my export")
        config = classifier.model.config
        result = parity.compare_runtimes(
            folder,
            runtime.format,
            config,
            lambda texts: expected if texts is messages else classifier.predict_proba(texts),
            messages,
            decide(config, torch.from_numpy(expected)).numpy(),
        )
        print(json.dumps(result))
        assert result["messages"] == 29697
        return result["runtimes"][0]

    return run
