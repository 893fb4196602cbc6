"""The compiled sums are left out where they cannot be made."""

import os
import subprocess
import sys

import pytest

from dsv3.kernels import native

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
pytestmark = needs_compiler


@pytest.mark.parametrize("compiler", ["/nonexistent/cc", "false"])
def test_without_a_compiler_the_sums_still_come_out(compiler, tmp_path):
    """``CC`` names one that is not there, or one that always fails; the cache folder is empty."""
    code = (
        "import dsv3; from dsv3.kernels import native; assert native.library() is None; "
        "print(dsv3.load('tiny-r1').chat('37 + 48 = ?').answer.strip())"
    )
    env = os.environ | {"CC": compiler, "DSV3_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "Answer: 85", done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = "from dsv3.kernels import native; print(native.library())"
    env = os.environ | {"DSV3_HOME": str(blocked)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "None", done.stderr
