"""mshare run itself, as its collector has it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from typing import cast

from msharefs.preload.collecting import Task
from msharefs.preload.runner import Runner


def test_a_signal_before_the_news_of_the_start() -> None:
    """The command runs, and the collector has not said so yet: the signal is passed on then."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with ours, theirs, subprocess.Popen(command) as child:
        runner = Runner(cast("Task", None))
        runner._pass_on(signal.SIGTERM, 0)
        theirs.send(json.dumps({"started": child.pid}).encode())
        runner._hear(ours)
        assert child.wait(20) == -signal.SIGTERM
