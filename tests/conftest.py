"""What every test shares: few threads, no network, and where the golden data lies."""

import gc
import os
import signal
from pathlib import Path

# Before torch is imported: the tests must leave room on a machine with two cores, and reach for no hub.
os.environ.setdefault("OMP_NUM_THREADS", "2")
# Threads that wait must sleep: else most of the time goes into waiting for a core that others' threads wait on.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# And oneDNN must not use instructions for half precision, which round otherwise than the original's results.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest
import torch

import glm_model  # noqa: F401

GOLDEN = Path(__file__).parent / "data" / "golden"

gc.freeze()  # a seventh of all tests' time went into looking for garbage among libraries
torch.set_num_threads(min(2, os.cpu_count() or 1))
# A shell starts its background jobs, and so what these start, with Ctrl-C ignored; it is tested there, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with what the original implementations computed; its README.md says how it was made."""
    return GOLDEN
