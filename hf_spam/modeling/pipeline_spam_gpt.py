"""A text classification pipeline that applies the `threshold` of the model's configuration.

This file travels to the Hub with a saved model, so it imports its sibling files and public libraries only.
"""

from typing import Any

from transformers import TextClassificationPipeline

from .configuration_spam_gpt import decide


class SpamPipeline(TextClassificationPipeline):
    """The "text-classification" pipeline of `transformers`, with labels chosen by the model's `threshold`.

        import hf_spam
        from transformers import pipeline

        pipeline("spam-classification", model="you/spam-gpt")(["Free entry! Txt WIN to 10010"])

    Answers are those of `SpamClassifier`: a label and its probability, which may be below 0.5 if the threshold is.
    With `top_k`, that label comes first. Without a threshold, answers are those of "text-classification".

    Where the package is not installed, `pipeline("spam-classification", model=..., trust_remote_code=True)` loads this
    class from the model's repository on the Hub.
    """

    def preprocess(self, inputs: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(inputs, str):  # replaces lone surrogates, which no tokenizer accepts
            inputs = inputs.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return super().preprocess(inputs, **kwargs)

    def postprocess(
        self, model_outputs: dict[str, Any], function_to_apply: Any = None, top_k: int | None = 1, _legacy: bool = True
    ) -> dict[str, Any] | list[dict[str, Any]]:
        answers = super().postprocess(model_outputs, function_to_apply, top_k=None, _legacy=False)
        probabilities = model_outputs["logits"].float().softmax(-1)  # (1, num_labels)
        config = self.model.config
        label = config.id2label[decide(config, probabilities).item()]
        answers.sort(key=lambda answer: answer["label"] != label)  # chosen label first, the others by score
        return answers[0] if _legacy else answers[:top_k]
