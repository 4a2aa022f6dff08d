import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_everything_runs_on_fake_cards_of_both_generations(tmp_path):
    """`on_fake_cuda.py` in a process of its own; its failures are in the message."""
    from fake_cuda import compile_guard
    library = compile_guard(tmp_path)
    if isinstance(library, str):
        pytest.skip(library)
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "fake_cuda", "-p", "no:xdist", "-p",
         "no:cacheprovider", "-o", "addopts=", HERE / "on_fake_cuda.py"],
        env={**os.environ, "PYTHONPATH": paths, "BSR_FAKE_CUDA": str(library)},
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) >= 40
