"""Against TRL 1.16.0 as it is installed: none of its code is copied, all of it is run.

`make test` installs the bench extra; an environment without it has nothing to compare with.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

# TRL asks for it, before its first import: SDFT is experimental there.
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
collect_ignore_glob = [] if find_spec("trl") else ["test_*.py"]


def pytest_collection_modifyitems(items):
    """TRL and PEFT use names of transformers that have been renamed there."""
    renamed = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing` is deprecated:FutureWarning")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(renamed)
