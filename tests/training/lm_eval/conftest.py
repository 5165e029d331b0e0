"""Tasks of our own for lm-evaluation-harness, which `make test` installs; an environment without it cannot run them."""

from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore_glob = [] if find_spec("lm_eval") else ["test_evaluation.py", "test_suite.py"]
TASKS = Path(__file__).parent / "tasks"


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks as an operator keeps them: a YAML names its data by an absolute path."""
    folder = tmp_path_factory.mktemp("tasks")
    for source in TASKS.iterdir():
        (folder / source.name).write_text(source.read_text().replace("FOLDER", str(folder)))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory):
    """As in a trainer process, which fetches nothing; and what is made of data lies elsewhere than a user's."""
    if find_spec("lm_eval") is None:
        yield
        return
    import datasets
    import huggingface_hub

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield
