"""A pipeline that gives a message the class that its model's configuration says: from the threshold on, spam.

A model that is saved takes this file along, to folder and Hub: it imports its sibling configuration file and public
libraries only.
"""

from typing import Any

from transformers import TextClassificationPipeline

from .configuration_spam_gpt import decide


class SpamPipeline(TextClassificationPipeline):
    """The library's "text-classification", but that the label is the one by the model's `threshold`.

        import hf_spam
        from transformers import pipeline

        pipeline("spam-classification", model="you/spam-gpt")(["Free entry! Txt WIN to 10010"])

    Answers are those of `SpamClassifier`, to any string: a label, and the probability of that label, which below the
    threshold may be the less likely one. With `top_k` the label is the first of the list. Without a threshold they are
    those of "text-classification".

    Where the package is not installed, a model that was saved by it is loaded, this class with it, by
    `pipeline("spam-classification", model=folder, trust_remote_code=True)`.
    """

    def preprocess(self, inputs: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(inputs, str):  # it may hold half of a UTF-16 pair, which no tokenizer takes
            inputs = inputs.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return super().preprocess(inputs, **kwargs)

    def postprocess(
        self, model_outputs: dict[str, Any], function_to_apply: Any = None, top_k: int | None = 1, _legacy: bool = True
    ) -> dict[str, Any] | list[dict[str, Any]]:
        answers = super().postprocess(model_outputs, function_to_apply, top_k=None, _legacy=False)
        probabilities = model_outputs["logits"].float().softmax(-1)  # (1, num_labels)
        config = self.model.config
        label = config.id2label[decide(config, probabilities).item()]
        answers.sort(key=lambda answer: answer["label"] != label)  # the others stay in their order
        return answers[0] if _legacy else answers[:top_k]
