#!/usr/bin/env bash
# Installs the package, trains a small model on 1,000 messages written for the tests, and classifies two messages with it.
# Needs network access to the package index only.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" train
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 # a model this small is no faster on more cores
echo "Training a small GPT on 1,000 messages; this takes about a minute."
hf-spam train --recipe pocket --data tests/messages.csv --output-dir runs/quickstart --overwrite-output-dir
echo "The trained model classifies two messages that it has not seen:"
hf-spam classify --model runs/quickstart \
  "You are a winner you have been specially selected to receive \$1000 cash or a \$2000 award." \
  "Hey, just wanted to check if we're still on for dinner tonight? Let me know!"
