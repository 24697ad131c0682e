"""Peak memory of the laboratory and of every process that it started."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import psutil

__all__ = ["MemoryWatch"]

_PERIOD_SECONDS = 1.0


class MemoryWatch:
    """Samples the memory of this process and its descendants while a `with` block runs.

    Where the system tells (Linux), pages that processes share are divided among them (proportional set size);
    elsewhere they count once per process, so the figure errs on the high side. Parties that live on other machines
    of a cluster are not counted.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            total = 0
            with contextlib.suppress(psutil.Error):
                for process in [me, *me.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        total += _held_bytes(process)
            self.peak_bytes = max(self.peak_bytes, total)
            if self._stop.wait(_PERIOD_SECONDS):
                return


def _held_bytes(process: psutil.Process) -> int:
    full = process.memory_full_info()
    return int(getattr(full, "pss", 0) or full.rss)
