"""Start several processes that train together, like `torchrun`."""

import json
import os
import subprocess
import sys


def run_processes(count: int, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script, or `-m` and a module, with its arguments on several processes of one thread each."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    command = [*launch, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def finetune_on(count: int, recipe: str, data: object, **settings: object) -> None:
    """Call `finetune` on several processes, with messages written by `save_to_disk`."""
    run_processes(count, __file__, recipe, data, json.dumps(settings, default=str))


if __name__ == "__main__":
    import torch
    from datasets import load_from_disk

    from hf_spam import finetune

    torch.set_num_threads(1)
    finetune(sys.argv[1], data=load_from_disk(sys.argv[2]), **json.loads(sys.argv[3]))
