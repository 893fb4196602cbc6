"""The lesson's first figures need no torch."""

import subprocess
import sys


def test_no_torch_is_needed():
    check = "import sys, dsv3.lab.machines, dsv3.show.environment, dsv3.show.download, dsv3.lab.hub, dsv3.show.start, "
    check += "dsv3.lessons.lesson_00, dsv3.lessons.lesson_01; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
