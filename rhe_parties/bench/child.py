"""A child process that a benchmark tells what to do: commands and answers as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from rhe_parties.errors import RheError

__all__ = ["Child", "obey"]


class Child:
    """A child process; a context manager.

    Args:
        name: in error messages.
        module: of this project, which calls `obey`.
        arguments: of the command line.
        threads: that numerical libraries use in it.

    Raises:
        RheError: the child could not do what it was told; its own words are in the message.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], threads: int) -> None:
        environment = os.environ | {
            variable: str(threads) for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        }
        command = [sys.executable, "-m", module, *arguments]
        self._name = name
        # A file, as nobody reads a pipe before the end, and a full one stops the child.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the child
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, env=environment
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RheError(f"{name}: no pipes to its process")
        self._input, self._output = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, **command: object) -> None:
        """Send one command; `answer` waits for what comes back."""
        with contextlib.suppress(BrokenPipeError):  # `answer` says why it is gone
            self._input.write(json.dumps(command) + "\n")
            self._input.flush()

    def answer(self) -> dict[str, Any]:
        """What the child found; see `tell`."""
        line = self._output.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise RheError(f"{self._name} failed: {said[-1] if said else 'its process ended'}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **command: object) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self.tell(**command)
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._input, self._output, self._errors):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def obey(prepare: Callable[[], Mapping[str, Callable[[dict[str, Any]], object]]]) -> None:
    """The child's side: carry out commands from standard input until it ends.

    Args:
        prepare: gives what can be done, by the command's `do`; what it prints does not get between the answers.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    actions = prepare()
    for line in sys.stdin:
        command = json.loads(line)
        answers.write(json.dumps(actions[command["do"]](command)) + "\n")
        answers.flush()
