"""An export of the bundled model in each format, and what the model itself answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_spam import SpamClassifier
from hf_spam.conversion import parity
from hf_spam.conversion.parity import Runtime
from hf_spam.data.sources import read_texts
from hf_spam.hub.export import export_model
from hf_spam.modeling.configuration_spam_gpt import decide


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of an export, which no runtime has run yet."""
    made: dict[str, Path] = {}

    def get(format: str) -> Path:
        if format not in made:
            made[format] = tmp_path_factory.mktemp("models") / f"my {format} export"
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr(parity, "RUNTIMES", [])
                export_model("bundled", made[format], format=format)
        return made[format]

    return get


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
def agreement(exports, messages, classifier, expected, monkeypatch) -> Callable[[Runtime], dict[str, Any]]:
    """Return how a runtime's answers for all messages of the sample, and for awkward ones, compare with the model's."""

    def run(runtime: Runtime) -> dict[str, Any]:
        monkeypatch.setattr(parity, "RUNTIMES", [runtime])
        config, folder = classifier.model.config, exports(runtime.format)
        labels = decide(config, torch.from_numpy(expected)).numpy()
        answers = {tuple(messages): expected}
        result = parity.compare_runtimes(
            folder,
            runtime.format,
            config,
            lambda texts: answers[tuple(texts)] if tuple(texts) in answers else classifier.predict_proba(texts),
            messages,
            labels,
        )
        print(json.dumps(result))
        assert result["messages"] == 21396
        return result["runtimes"][0]

    return run
