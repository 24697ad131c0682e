"""Host and key holder behind real ports, each served by a thread of the test's own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rhe_parties.he.plan import HeadPlan
from rhe_parties.model.backbone import load_backbone
from rhe_parties.parties.base import Party
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.parties.model_host import ModelHost
from rhe_parties.service.certificates import load_identity
from rhe_parties.service.grpc_gate import Gate
from rhe_parties.service.grpc_service import Service, ServiceOptions
from rhe_parties.service.revocation import REVOKED_FILE
from rhe_parties.service.telemetry import Telemetry
from rhe_parties.service.turns import NothingKept
from rhe_parties.threat.model import KEY_HOLDER, MODEL_HOST

__all__ = ["Served", "ServedPair"]


class _Loop(asyncio.SelectorEventLoop):
    """Signals reach the main thread alone; what a service would do on them is kept for `Served.stop`."""

    def __init__(self) -> None:
        super().__init__()
        self.on_signal: Callable[..., Any] = lambda: None

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        self.on_signal = callback


class Served:
    """One party, from now until `stop`; `address` is where."""

    def __init__(self, party: Party, deployment: str, folder: Path | None, peer: str | None = None) -> None:
        credentials = None if folder is None else load_identity(folder, party.name)
        revoked = None if folder is None else folder / REVOKED_FILE
        options = ServiceOptions("127.0.0.1:0", deployment, credentials, peer, grace_seconds=1.0)
        gate = Gate(party.name, deployment, folder is None, revoked, _unnoted)
        self._service = Service(party, options, NothingKept(), gate, _unnoted, Telemetry())
        self._loop, self._ready = _Loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        self.address = f"127.0.0.1:{self._service.port}"

    def _run(self) -> None:
        async def ready(_service: Service) -> None:
            self._ready.set()

        self._loop.run_until_complete(self._service.serve(ready))
        self._loop.close()

    @property
    def linked_to(self) -> set[str]:
        """Names of the parties that have a link to it."""
        return set(self._service.server.parties)

    def stop(self) -> None:
        """End it as SIGTERM would; a second time does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.on_signal)
            self._thread.join(30)


class ServedPair:
    """A host and the key holder that dialled it.

    Args:
        plan: of the key.
        deployment: name of it.
        certificates: folder of `new_deployment`; None: plaintext.
    """

    def __init__(self, plan: HeadPlan, deployment: str, certificates: Path | None = None) -> None:
        folders = {role: None if certificates is None else certificates / role for role in (MODEL_HOST, KEY_HOLDER)}
        backbone = load_backbone("strokenet")
        self.host = Served(ModelHost(deployment, backbone, evaluator="seal"), deployment, folders[MODEL_HOST])
        self.holder = Served(KeyHolder(deployment, plan), deployment, folders[KEY_HOLDER], self.host.address)
        waiting = threading.Event()
        for _ in range(200):
            if MODEL_HOST in self.holder.linked_to:
                return
            waiting.wait(0.05)
        raise AssertionError("the key holder does not reach the host")

    @property
    def both(self) -> list[str]:
        """The options that say where they are."""
        return ["--host", self.host.address, "--key-holder", self.holder.address]

    def stop(self) -> None:
        """End both."""
        self.holder.stop()
        self.host.stop()


def _unnoted(event: str, who: str, what: str) -> None:
    del event, who, what
