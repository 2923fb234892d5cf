"""Command lines of hf-spam one after another, in a process that `accelerate launch` has started on a CPU, for shards.

Accelerate shards over GPUs only. Here it is told that these are some; the sharding itself, the gathering of weights and
the checkpoints are real, between processes that talk through gloo.
"""

import json
import sys
from collections.abc import Callable

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from hf_spam.cli import cli


def take_cpus_for_gpus(replace: Callable[[type, str, object], None]) -> None:
    """Has Accelerate shard on the CPUs, which need `ACCELERATE_TORCH_DEVICE=cpu`."""
    replace(PartialState, "_prepare_backend", lambda *_: ("gloo", DistributedType.MULTI_GPU))


if __name__ == "__main__":
    take_cpus_for_gpus(setattr)
    torch.set_num_threads(1)
    for command in json.loads(sys.argv[1]):
        cli(command, standalone_mode=False)
