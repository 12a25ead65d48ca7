import shutil

import pytest


@pytest.fixture
def needs_gpu():
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no GPU here (nvidia-smi is not installed)")
