"""The benchmark in a process of its own. pytest tests/soak"""

import subprocess
import sys

from tests.commands.test_benchmarks import ONE_ROW, check_one_row
from tests.helpers.processes import ROOT


def test_one_command_one_table():
    command = [sys.executable, "-m", "benchmarks", *ONE_ROW]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    check_one_row(ended.stdout)
