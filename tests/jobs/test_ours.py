"""Which folders are the source itself, by mounts and links; reading without the other systems' calls."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsv3 import bf16_cast_fp8, fp8_cast_bf16, verify
from tests.unit.checkpoint.test_ours import tree


@pytest.mark.parametrize("how", ["the path", "a link", "a part of the path", "bind mount", "the scales"])
def test_the_source_is_never_the_target(how, fp8_folder, bf16_folder, tmp_path):
    source = Path(shutil.copytree(fp8_folder, tmp_path / "in" / "model"))
    target = tmp_path / "out"
    if how == "the path":
        target = source / ".." / "model"
    elif how == "a link":
        target.symlink_to(source)
    elif how == "a part of the path":
        target.symlink_to(source.parent)
        target = target / "model"
    elif how == "bind mount":
        target.mkdir()
        if subprocess.run(["mount", "--bind", source, target], capture_output=True).returncode:
            pytest.skip("this user may not mount")
    before = tree(source)
    try:
        with pytest.raises(ValueError, match="the output folder is the input folder"):
            bf16_cast_fp8.cast(bf16_folder, source, source) if how == "the scales" else fp8_cast_bf16.cast(
                source, target
            )
        for doing in (verify.verify, verify.repair):
            with pytest.raises(ValueError, match="the output folder is the input folder|has no record"):
                doing(source, target if how != "the scales" else source)
    finally:
        if how == "bind mount":
            subprocess.run(["umount", target], check=True)
    assert tree(source) == before


def test_reading_does_not_need_the_other_systems_calls():
    """Windows has no ``fcntl`` and no ``O_NOFOLLOW``."""
    code = "import os, sys; sys.modules['fcntl'] = None; del os.O_NOFOLLOW, os.O_NONBLOCK; import dsv3.verify"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
