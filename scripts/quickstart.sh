#!/usr/bin/env bash
# Installs the package and trains the pocket model on the sample messages; needs the package index and nothing else.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 # so small a model is no faster on more cores
hf-spam train --recipe pocket --data sample --output-dir runs/quickstart --overwrite-output-dir
echo "The model just trained says:"
hf-spam classify --model runs/quickstart \
  "You are a winner you have been specially selected to receive \$1000 cash or a \$2000 award." \
  "Hey, just wanted to check if we're still on for dinner tonight? Let me know!"
