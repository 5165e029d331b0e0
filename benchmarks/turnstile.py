"""An arm's side of the pipe to the conductor: no step begins before it is asked for.

Between its turns a process waits for a line, so that only one arm computes at any time. A step ends where the next one
would begin: whatever an arm does in between, such as logging, counts.
"""

import json
import os
import resource
import sys
from typing import Any


class Turnstile:
    """Says one JSON line after the other. What else the process prints goes to its log."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def pass_on(self, **facts: Any) -> None:
        """Say what is ready or was done, and wait until it is this arm's turn again."""
        self.say(**facts)
        if not sys.stdin.readline():
            sys.exit("the conductor has left")

    def say(self, **facts: Any) -> None:
        """Say something, and go on."""
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()


def peak_memory_bytes() -> int:
    """The most this process ever held in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
