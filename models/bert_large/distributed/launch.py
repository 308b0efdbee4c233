"""torchrun, fit for a run that is stopped: `python -m bert_large.distributed.launch`, with torchrun's options.

Told to stop, torchrun tells its ranks, and kills them after 30 seconds: too soon for a checkpoint of BERT-large. Here
they get longer, and the exit code is that of a process which the signal ended, 128 + its number, not 1.
"""

from __future__ import annotations

import os
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException

# Of PyTorch 2.9 and later; earlier versions do not know it.
_TIMEOUT_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
# The default of --stop-deadline, and time to write a checkpoint of 4 GB to a slow disk and read it back.
_TIMEOUT_SECONDS = 300


def main() -> None:
    """Run torchrun to its end."""
    os.environ.setdefault(_TIMEOUT_VARIABLE, str(_TIMEOUT_SECONDS))
    try:
        run.main()
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
