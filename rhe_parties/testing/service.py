"""A small deployment for tests: real `rhe serve` processes on free ports, heads whose right classes are known, and
whoever installs and asks."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import PublicMaterial, make_encryptor
from rhe_parties.he.tag import encrypt_tagged
from rhe_parties.messages.fingerprints import head_fingerprint
from rhe_parties.messages.payloads import (
    AskDecisions,
    Decision,
    EncryptedHead,
    HeadInstalled,
    HeadNotice,
    HeadReady,
    PublicMaterialRequest,
)
from rhe_parties.service.certificates import load_identity
from rhe_parties.service.grpc_caller import Caller
from rhe_parties.service.identity import CLIENT, OPERATOR, Identity
from rhe_parties.service.passphrase import VARIABLE
from rhe_parties.service.vault import Vault
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST

__all__ = ["DEPLOYMENT", "Deployment", "KnownHead", "free_port", "make_vault", "small_plan"]

DEPLOYMENT = "hospital"
FEATURES, CLASSES = 256, 3
_PASSPHRASE = "correct horse battery staple"
_START_SECONDS = 120.0
_NORM = 8.0


def small_plan() -> HeadPlan:
    """Of the heads below, with their tags."""
    return plan_head(FEATURES, CLASSES + 1, feature_norm=2 * _NORM)


class KnownHead:
    """A head of random weights, and questions whose right answers follow from them.

    Args:
        head_id: its name.
        seed: of the weights.
    """

    def __init__(self, head_id: str, seed: int) -> None:
        self.head_id = head_id
        rng = np.random.default_rng(seed)
        self._weight = rng.standard_normal((CLASSES, FEATURES)).astype(np.float32)
        self._numbers = itertools.count()

    def encrypted(self, public: PublicMaterial, backbone: str) -> tuple[EncryptedHead, HeadNotice]:
        """For the host and for the key holder.

        Args:
            public: of the key.
            backbone: fingerprint of the host's.
        """
        held, scale, tag = encrypt_tagged(make_encryptor(public), self._weight, np.zeros(CLASSES, np.float32))
        head = EncryptedHead(self.head_id, held.key_fingerprint, backbone, held.ciphertexts)
        notice = HeadNotice(self.head_id, head_fingerprint(head), True, scale, CLASSES, held.key_fingerprint, tag)
        return head, notice

    def question(self, request_id: str, right: int, images: int = 1) -> AskDecisions:
        """A request for inputs that are all of class `right`."""
        row = self._weight[right] / np.linalg.norm(self._weight[right]) * _NORM
        return AskDecisions(request_id, self.head_id, features=np.repeat(row[None], images, 0))


def make_vault(folder: Path) -> None:
    """A vault with a key for `small_plan`; costs about a second, so make it once and copy it."""
    with Vault.create(folder, _PASSPHRASE) as vault:
        vault.new_custody(small_plan())


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class _Server:
    role: str
    port: int
    flags: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None


class Deployment:
    """A host and a key holder as processes, over one folder that outlives them; a context manager.

    Args:
        folder: new one for all that they keep.
        vault: is copied.
        certificates: folder of `rhe_parties.service.authority.new_deployment` with client `alice`; None: plaintext.
        host_address: what the key holder dials in place of the host itself, such as a proxy.
        settings: of both servers, such as `request_seconds`, in their environment.
        launcher: what is run in place of `python -m rhe_parties.cli`.
    """

    def __init__(
        self,
        folder: Path,
        vault: Path,
        certificates: Path | None = None,
        host_address: str = "",
        settings: dict[str, str] | None = None,
        launcher: tuple[str, ...] = ("-m", "rhe_parties.cli"),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(vault, folder / "vault")
        (folder / "vault").chmod(0o700)
        self.folder, self._certificates, self._launcher = folder, certificates, launcher
        self._settings, self._host_address = settings or {}, host_address
        ports = {MODEL_HOST: free_port(), KEY_HOLDER: free_port()}
        flags = {
            MODEL_HOST: ["--state", str(folder / "state"), "--device", "cpu"],
            KEY_HOLDER: [
                "--vault", str(folder / "vault"), "--ledger", str(folder / "ledger.sqlite"), "--client", "alice=0",
                "--client", "bob=0", "--host", host_address or f"127.0.0.1:{ports[MODEL_HOST]}",
            ],
        }  # fmt: skip
        self._servers = {role: _Server(role, port, flags[role], folder / f"{role}.log") for role, port in ports.items()}
        self._requests = itertools.count()

    def __enter__(self) -> Deployment:
        for role in self._servers:
            self.launch(role)
        for role in self._servers:
            self.wait(role)
        if not self._host_address:
            self.wait(KEY_HOLDER, "link opened")
        return self

    def __exit__(self, *_exception: object) -> None:
        for role in self._servers:
            self.kill(role)

    # ---- processes ---------------------------------------------------------------------------------------------

    def launch(self, role: str, **environment: str) -> None:
        """Start a server and do not wait for it."""
        server = self._servers[role]
        secured = ["--plaintext", "--deployment", DEPLOYMENT]
        if self._certificates is not None:
            revoked = str(self._certificates / "authority" / "revoked.txt")
            secured = ["--certificates", str(self._certificates / role), "--revoked", revoked]
        prefix = {MODEL_HOST: "RHE_HOST_", KEY_HOLDER: "RHE_KEYS_"}[role]
        own = {f"{prefix}{name}".upper(): value for name, value in self._settings.items()}
        listen = ["--listen", f"127.0.0.1:{server.port}", "--log", "json"]
        command = [sys.executable, *self._launcher, "serve", role, *listen, *secured, *server.flags]
        with server.log.open("wb") as log:
            server.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {VARIABLE: _PASSPHRASE} | own | environment,
            )  # fmt: skip

    def wait(self, role: str, event: str = "serving") -> None:
        """Until a server that was launched serves, or tells of another event.

        Raises:
            RuntimeError: it does not; its log.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not any(entry.get("event") == event for entry in self.log(role)):
            if time.monotonic() > deadline or not self.runs(role):
                raise RuntimeError(f"{role}: no {event!r}: {self._servers[role].log.read_text()}")
            time.sleep(0.02)

    def runs(self, role: str) -> bool:
        """Whether its process is there."""
        process = self._servers[role].process
        return process is not None and process.poll() is None

    def signal(self, role: str, number: signal.Signals) -> None:
        """Send a signal to a server's process."""
        process = self._servers[role].process
        if process is not None:
            process.send_signal(number)

    def kill(self, role: str) -> None:
        """SIGKILL, and wait for the end."""
        process = self._servers[role].process
        if process is not None:
            process.kill()
            process.wait()

    def stopped(self, role: str) -> int:
        """Wait for the end of a server's process; its exit status."""
        process = self._servers[role].process
        if process is None:
            raise RuntimeError(f"{role} was never launched")
        return process.wait(_START_SECONDS)

    def pid(self, role: str) -> int:
        """Of a server's process."""
        process = self._servers[role].process
        if process is None:
            raise RuntimeError(f"{role} was never launched")
        return process.pid

    def log(self, role: str) -> list[dict[str, Any]]:
        """The events that a server logged since its last start."""
        lines = self._servers[role].log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def port(self, role: str) -> int:
        """That a server listens at."""
        return self._servers[role].port

    # ---- owner and clients -------------------------------------------------------------------------------------

    def caller(self, server: str, who: Identity, seconds: float = 30.0, address: str = "") -> Caller:
        """A link to one of the servers, not opened yet; `address` in place of the server's own, such as a proxy's."""
        credentials = None
        if self._certificates is not None:
            folder = f"client-{who.name}" if who.role == CLIENT else who.role
            credentials = load_identity(self._certificates / folder)
        target = address or f"127.0.0.1:{self._servers[server].port}"
        return Caller(target, Identity(DEPLOYMENT, server), who, credentials, seconds)

    @property
    def owner(self) -> Identity:
        """Who installs heads."""
        return Identity(DEPLOYMENT, DATA_OWNER)

    @property
    def operator(self) -> Identity:
        """Who rotates keys."""
        return Identity(DEPLOYMENT, OPERATOR)

    def client(self, name: str = "alice") -> Identity:
        """Who asks; `alice` or `bob`."""
        return Identity(DEPLOYMENT, CLIENT, name)

    async def install(self, head: KnownHead, backbone: str) -> None:
        """Encrypt a head for the current key, have the host install it and tell the key holder."""
        async with self.caller(KEY_HOLDER, self.owner) as holder, self.caller(MODEL_HOST, self.owner) as host:
            public = await holder.ask(PublicMaterialRequest(), PublicMaterial)
            encrypted, notice = head.encrypted(public, backbone)
            await host.ask(encrypted, HeadInstalled)
            await holder.ask(notice, HeadReady)

    def request_id(self) -> str:
        """One that was not used."""
        return f"request-{next(self._requests)}"

    async def right(self, caller: Caller, head: KnownHead) -> bool:
        """Whether a new question about a head gets the right class.

        Raises:
            ProtocolError: it was refused.
            TransportError: no answer came.
        """
        request_id = self.request_id()
        expected = hash(request_id) % CLASSES
        decision = await caller.ask(head.question(request_id, expected), Decision)
        return (decision.request_id, list(decision.classes)) == (request_id, [expected])
