import os
import sys
from pathlib import Path

import pytest
import torch

os.environ["AGF_FX_CACHE"] = "memory"  # what tests of one process compile again is found there

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _quiet_torch_logs(caplog):
    """torch logs every export at debug level, which pytest would print with each failure."""
    caplog.set_level("ERROR", logger="torch")
    caplog.set_level("ERROR", logger="torch.__trace")


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The networks are tiny: threads would wait for each other longer than they work."""
    torch.set_num_threads(1)
