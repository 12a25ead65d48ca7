import random

import pytest

pytest.importorskip("cryptography", reason="needs cryptography: make setup-test")

from fuzz_bundles import fuzz


def test_corrupted_bundles_are_all_refused_by_name(model_dir, tmp_path):
    result = fuzz(model_dir, tmp_path, 150, random.Random(1), lambda *_: None)
    assert result["refused"] == 150 and result["accepted"] == result["crashed"] == 0
    assert result["unnamed"] == result["escaped"] == 0
