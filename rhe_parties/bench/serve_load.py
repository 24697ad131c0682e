"""The load on served parties: clients in a process of their own, each asking a key holder for decisions.

Closed loop: every client asks again as soon as it has its answer, which finds the highest rate. Open loop: requests
come at random moments (Poisson) at a given rate, whatever becomes of those before, and an answer's time counts from the
moment at which its request was due, so that a server that stalls is not spared those that would have come meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rhe_parties.bench.child import Child, obey
from rhe_parties.errors import BudgetError, FailureCode, ProtocolError, RheError, TransportError
from rhe_parties.messages.payloads import AskDecisions, Decision
from rhe_parties.service.certificates import Credentials, load_identity
from rhe_parties.service.grpc_caller import Caller
from rhe_parties.service.identity import CLIENT, Identity
from rhe_parties.threat.model import KEY_HOLDER

__all__ = ["BUDGET", "LoadGenerator", "credentials_in"]

#: What refusals by budget are counted under.
BUDGET = FailureCode.BUDGET.name
# Requests that differ; the same bytes again and again would stay in the processor's cache.
_VARIANTS = 16
_WAIT_SECONDS = 60.0
_ADMITTED_WITHIN = 60.0
# Links that are opened at a time, and how long a client waits that has no images left to ask about.
_OPENED_AT_ONCE = 25
_REFUSED_SECONDS = 1.0
_MODULE = "rhe_parties.bench.serve_load"


class LoadGenerator(Child):
    """The child process; commands: `connect`, `check`, `closed`, `open`."""

    def __init__(self) -> None:
        super().__init__("load generator", _MODULE, [], 1)


def credentials_in(folder: str, party: str) -> Credentials | None:
    """Those of a party in the folder of a deployment; None where there is none."""
    return load_identity(Path(folder) / party) if folder else None


class _Load:
    """Links to a key holder, and what is asked over them."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._callers: list[Caller] = []
        self._inputs: list[dict[str, Any]] = []
        self._batch = 0
        self._prefix, self._numbers = secrets.token_hex(4), itertools.count()

    def actions(self) -> dict[str, Callable[[dict[str, Any]], object]]:
        """See `LoadGenerator`."""
        run = self._runner.run
        return {
            "connect": lambda command: run(self._connect(command)),
            "check": lambda command: run(self._check(command)),
            "closed": lambda command: run(self._closed(command)),
            "open": lambda command: run(self._open(command)),
        }

    # ---- commands ----------------------------------------------------------------------------------------------

    async def _connect(self, command: dict[str, Any]) -> dict[str, Any]:
        """Open `links` links to `address`, as the clients `names` in turn; `shape` is that of one input."""
        server = Identity(command["deployment"], KEY_HOLDER)
        gate = asyncio.Semaphore(_OPENED_AT_ONCE)

        async def opened(name: str) -> Caller:
            caller = Identity(command["deployment"], CLIENT, name)
            shown = credentials_in(command["certificates"], f"client-{name}")
            async with gate:
                return await Caller(command["address"], server, caller, shown, _WAIT_SECONDS).__aenter__()

        names = itertools.islice(itertools.cycle(command["names"]), command["links"])
        self._callers = list(await asyncio.gather(*map(opened, names)))
        self._batch = command["batch"]
        self._inputs = _inputs(command["batch"], tuple(command["shape"]), command["norm"])
        return {"links": len(self._callers)}

    async def _check(self, command: dict[str, Any]) -> dict[str, Any]:
        """The same inputs to all `heads`; waits until the key holder serves. How many decisions differ."""
        deadline = time.monotonic() + _ADMITTED_WITHIN
        found: list[np.ndarray[Any, Any]] = []
        for head in command["heads"]:
            classes = []
            for index in range(len(self._inputs)):
                decision = None
                while decision is None:
                    try:
                        decision = await self._ask(self._callers[-1], head, index)
                    except (ProtocolError, TransportError):
                        if time.monotonic() > deadline:
                            raise
                        await asyncio.sleep(0.1)
                classes.append(decision.classes)
            found.append(np.concatenate(classes))
        return {"decisions": len(found[0]), "differing": int((found[0] != found[-1]).sum())}

    async def _closed(self, command: dict[str, Any]) -> dict[str, Any]:
        """`clients` of them ask about `head` for so many `seconds`."""
        tally, deadline = _Tally(), time.perf_counter() + command["seconds"]
        started = time.perf_counter()

        async def client(number: int) -> None:
            caller = self._callers[number % len(self._callers)]
            while (begin := time.perf_counter()) < deadline:
                refused = await self._counted(tally, caller, command["head"], begin, deadline)
                if refused:
                    await asyncio.sleep(min(_REFUSED_SECONDS, max(deadline - time.perf_counter(), 0)))

        await asyncio.gather(*map(client, range(command["clients"])))
        return tally.found(deadline - started)

    async def _open(self, command: dict[str, Any]) -> dict[str, Any]:
        """Requests about `head` at `rate` a second for so many `seconds`."""
        tally, random = _Tally(), np.random.default_rng()
        started = time.perf_counter()
        deadline, due = started + command["seconds"], started
        asked = []
        for caller in itertools.cycle(self._callers):
            due += float(random.exponential(1 / command["rate"]))
            if due >= deadline:
                break
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            question = self._counted(tally, caller, command["head"], due, float("inf"))
            asked.append(asyncio.create_task(question))
        await asyncio.gather(*asked)
        return tally.found(command["seconds"])

    # ---- one request -------------------------------------------------------------------------------------------

    async def _counted(self, tally: _Tally, caller: Caller, head: str, begin: float, deadline: float) -> bool:
        """Ask and count; whether it was refused for want of budget."""
        try:
            await self._ask(caller, head)
        except ProtocolError as error:
            tally.errors[error.code.name] += 1
            tally.texts.setdefault(error.code.name, str(error))
            return isinstance(error, BudgetError) or error.code == FailureCode.BUDGET
        except TransportError as error:
            tally.errors["TRANSPORT"] += 1
            tally.texts.setdefault("TRANSPORT", str(error))
            return True
        end = time.perf_counter()
        if end <= deadline:
            tally.seconds.append(end - begin)
        return False

    async def _ask(self, caller: Caller, head: str, index: int | None = None) -> Decision:
        number = next(self._numbers)
        inputs = self._inputs[(number if index is None else index) % len(self._inputs)]
        decision = await caller.ask(AskDecisions(f"{self._prefix}-{number}", head, **inputs), Decision)
        if len(decision.classes) != self._batch:
            raise RheError(f"{len(decision.classes)} decisions came where {self._batch} were asked for")
        return decision


class _Tally:
    """What came of a run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.errors: Counter[str] = Counter()
        self.texts: dict[str, str] = {}

    def found(self, seconds: float) -> dict[str, Any]:
        """Rate of answers a second, times in ms at percentiles (0 where there was no answer), errors by kind."""
        times = 1000 * np.array(self.seconds or [0.0])
        return {
            "per_second": len(self.seconds) / seconds,
            "answers": len(self.seconds),
            "p50_ms": float(np.percentile(times, 50)),
            "p95_ms": float(np.percentile(times, 95)),
            "p99_ms": float(np.percentile(times, 99)),
            "errors": dict(self.errors),
            "texts": self.texts,
        }


def _inputs(batch: int, shape: tuple[int, ...], norm: float) -> list[dict[str, Any]]:
    """Fields of requests: features [B, D] of that norm for a shape (D,), images [B, C, H, W] for (C, H, W)."""
    random = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    for _ in range(_VARIANTS):
        if len(shape) == 3:
            found.append({"images": random.integers(0, 256, (batch, *shape), dtype=np.uint8)})
            continue
        features = np.maximum(random.normal(size=(batch, *shape)), 0)  # as behind a ReLU
        features *= 0.75 * norm / np.linalg.norm(features, axis=1, keepdims=True)
        found.append({"features": features.astype(np.float32)})
    return found


if __name__ == "__main__":
    obey(lambda: _Load().actions())
