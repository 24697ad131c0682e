"""A deployment on this machine for a benchmark: authority, vault, ledger and both servers, all of it thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from rhe_parties.bench.serve_load import credentials_in
from rhe_parties.errors import RheError
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import PublicMaterial, make_encryptor
from rhe_parties.messages.fingerprints import head_fingerprint
from rhe_parties.messages.payloads import (
    EncryptedHead,
    HeadInstalled,
    HeadNotice,
    HeadReady,
    PlainHead,
    PublicMaterialRequest,
)
from rhe_parties.model.backbone import Backbone
from rhe_parties.service.authority import new_deployment
from rhe_parties.service.grpc_caller import Caller
from rhe_parties.service.identity import Identity
from rhe_parties.service.vault import Vault
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST

__all__ = ["ENCRYPTED", "PLAIN", "Deployment", "Memory", "Served"]

PLAIN, ENCRYPTED = "plain", "encrypted"
_DEPLOYMENT = "bench"
_START_SECONDS = 120.0
_GATHERED = "rhe_inputs_gathered"


@dataclass(frozen=True)
class Served:
    """What is served: `gather` inputs is what the key's layout is made for, `clients` their budgets by name, `norm` the
    public bound of a feature vector's length."""

    backbone: Backbone
    weights: str
    classes: int
    gather: int
    gather_ms: float
    clients: dict[str, int]
    tls: bool
    norm: float


class _Server:
    """One server in a process of its own, its log in a file."""

    def __init__(self, role: str, folder: Path, settings: dict[str, Any]) -> None:
        self.role, self._log, self.port = role, folder / f"{role}.log", 0
        config = folder / f"{role}.toml"
        config.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in settings.items()))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "rhe_parties.cli", "serve", role, "--config", str(config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.process = psutil.Process(self._process.pid)

    def await_event(self, event: str) -> dict[str, Any]:
        """The first log line of this event.

        Raises:
            RheError: the server ended or does not come to it.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            for line in self._log.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    facts: dict[str, Any] = json.loads(line)
                    if facts["event"] == event:
                        return facts
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        said = self._log.read_text().strip().splitlines()
        raise RheError(f"{self.role} does not serve: {said[-1] if said else 'it says nothing'}")

    def end(self) -> None:
        """Stop it for good; nothing that it keeps is wanted."""
        self._process.kill()
        self._process.wait()


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Deployment:
    """Both servers with a plain and an encrypted head of the same weights; a context manager.

    Args:
        folder: empty; everything goes there.
        served: see `Served`.

    Raises:
        RheError: something does not start.
    """

    def __init__(self, folder: Path, served: Served) -> None:
        self._served, self._servers = served, list[_Server]()
        self.name = _DEPLOYMENT
        self.certificates = str(folder / "certificates") if served.tls else ""
        if served.tls:
            new_deployment(_DEPLOYMENT, folder / "certificates", served.clients)
        features = served.backbone.features
        plan = plan_head(features, served.classes, (), served.gather, feature_norm=served.norm)
        #: Features D of an input.
        self.features = features
        passphrase = folder / "passphrase"
        passphrase.touch(0o600)
        passphrase.write_text(secrets.token_hex(16))
        with Vault.create(folder / "vault", passphrase.read_text()) as vault:
            vault.new_custody(plan)
        self._metrics = f"127.0.0.1:{_free_port()}"
        try:
            host = self._started(MODEL_HOST, folder, {
                "state": folder / "host", "backbone": served.backbone.name, "weights": served.weights, "device": "cpu",
                "gather_ms": served.gather_ms, "metrics": self._metrics,
            })  # fmt: skip
            self._host = f"127.0.0.1:{host.port}"
            keys = self._started(KEY_HOLDER, folder, {
                "host": self._host, "vault": folder / "vault", "passphrase_file": passphrase,
                "ledger": folder / "ledger.sqlite", "clients": served.clients,
            })  # fmt: skip
            keys.await_event("link opened")
            #: Where clients ask.
            self.address = f"127.0.0.1:{keys.port}"
            asyncio.run(self._install())
        except BaseException:
            self._end()
            raise

    def _started(self, role: str, folder: Path, settings: dict[str, Any]) -> _Server:
        common: dict[str, Any] = {"listen": "127.0.0.1:0", "log": "json", "request_seconds": 60.0}
        if self._served.tls:
            common["certificates"] = Path(self.certificates) / role
        else:
            common |= {"plaintext": True, "deployment": _DEPLOYMENT}
        server = _Server(role, folder, common | settings)
        self._servers.append(server)
        server.port = int(server.await_event("serving")["port"])
        return server

    async def _install(self) -> None:
        owner, shown = Identity(_DEPLOYMENT, DATA_OWNER), credentials_in(self.certificates, DATA_OWNER)
        random = np.random.default_rng(0)
        weight = random.normal(size=(self._served.classes, self._served.backbone.features)).astype(np.float32)
        bias = random.normal(size=self._served.classes).astype(np.float32)
        fingerprint = self._served.backbone.fingerprint
        host = Caller(self._host, Identity(_DEPLOYMENT, MODEL_HOST), owner, shown)
        keys = Caller(self.address, Identity(_DEPLOYMENT, KEY_HOLDER), owner, shown)
        async with host, keys:
            public = await keys.ask(PublicMaterialRequest(), PublicMaterial)
            held, scale = make_encryptor(public).encrypt(weight, bias)
            key = held.key_fingerprint
            for head, unit, of_key in (
                (PlainHead(PLAIN, weight, bias, fingerprint), 0.0, ""),
                (EncryptedHead(ENCRYPTED, key, fingerprint, held.ciphertexts), scale, key),
            ):
                await host.ask(head, HeadInstalled)
                notice = HeadNotice(
                    head.head_id, head_fingerprint(head), bool(of_key), unit, self._served.classes, of_key
                )
                await keys.ask(notice, HeadReady)

    @property
    def processes(self) -> dict[str, psutil.Process]:
        """Of the servers, by role."""
        return {server.role: server.process for server in self._servers}

    def gathered(self) -> tuple[float, float]:
        """Inputs that the host has answered for, and its replies."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics") as response:
            lines = response.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith(_GATHERED))
        return float(values[f"{_GATHERED}_sum"]), float(values[f"{_GATHERED}_count"])

    def _end(self) -> None:
        for server in reversed(self._servers):
            server.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


class Memory:
    """Samples the resident memory of processes until its `with` block ends.

    Args:
        processes: by name.
        seconds: between samples.
    """

    def __init__(self, processes: dict[str, psutil.Process], seconds: float) -> None:
        self._processes, self._seconds = processes, seconds
        #: Bytes by name, in the order of time.
        self.samples: dict[str, list[int]] = {name: [] for name in processes}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(self._seconds):
            for name, process in self._processes.items():
                with contextlib.suppress(psutil.Error):
                    self.samples[name].append(process.memory_info().rss)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()
