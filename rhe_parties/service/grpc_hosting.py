"""From settings to a served party: what it kept is put before it first, and everything is closed in the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterator

from rhe_parties.errors import CredentialsError, FailureCode, ProtocolError, VaultError
from rhe_parties.messages.payloads import AdmitClient
from rhe_parties.messages.setups import NOISE_IGNORED, BackboneSpec, ModelHostSetup, encode_setup
from rhe_parties.parties.base import Outgoing
from rhe_parties.parties.build import build_party
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.parties.release import parse_release
from rhe_parties.service.auditor import Auditor
from rhe_parties.service.certificates import Credentials, load_identity
from rhe_parties.service.durable import DurableBudgets, DurableIds
from rhe_parties.service.grpc_gate import Gate
from rhe_parties.service.grpc_server import Limits
from rhe_parties.service.grpc_service import Service, ServiceOptions
from rhe_parties.service.identity import CLIENT, Identity, check_label
from rhe_parties.service.journal import Journal
from rhe_parties.service.ledger import AuditEvent, Ledger
from rhe_parties.service.passphrase import find_passphrase
from rhe_parties.service.settings import HostSettings, KeyHolderSettings, ServiceSettings
from rhe_parties.service.telemetry import Telemetry
from rhe_parties.service.vault import Vault
from rhe_parties.threat.model import KEY_HOLDER, LABORATORY, MODEL_HOST

__all__ = ["serve_key_holder", "serve_model_host"]

_LOG = logging.getLogger("rhe.service")
_MAX_TEXT = 300
# Events that happen when nothing is wrong.
_ORDINARY = ("link opened", "link closed")
Ready = Callable[[Service], Awaitable[None]]


def serve_model_host(settings: HostSettings, ready: Ready | None = None) -> None:
    """Serve until SIGTERM.

    Raises:
        UserError: a setting, certificate, backbone or folder that will not do.
        TransportError: an address cannot be listened at.
    """
    credentials, deployment = _who(settings, MODEL_HOST)
    setup = ModelHostSetup(
        BackboneSpec(settings.backbone, settings.weights, "", settings.device),
        settings.threads or os.cpu_count() or 1,
        settings.gather_ms,
        settings.gather_inputs,
        settings.max_images,
        settings.max_heads,
        settings.evaluator,
        takes_features=settings.features,
    )
    party = build_party(encode_setup(deployment, setup))
    journal = Journal(settings.state)
    for head_id in journal.restore(party):
        _LOG.info("head restored", extra={"head": head_id})
    with _telemetry(settings) as telemetry:
        note = _Notes(telemetry, None)
        gate = Gate(MODEL_HOST, deployment, settings.plaintext, settings.revoked, note)
        options = _options(settings, deployment, credentials, None)
        asyncio.run(Service(party, options, journal, gate, note, telemetry).serve(ready))


def serve_key_holder(settings: KeyHolderSettings, ready: Ready | None = None) -> None:
    """Serve until SIGTERM.

    Raises:
        UserError: a setting, certificate, passphrase, vault or ledger that will not do.
        TransportError: an address cannot be listened at.
    """
    credentials, deployment = _who(settings, KEY_HOLDER)
    clients = {Identity(deployment, CLIENT, name).party: budget for name, budget in settings.clients.items()}
    passphrase = find_passphrase(
        f"vault {str(settings.vault)!r}", settings.passphrase_file, keyring_name=str(settings.vault.absolute())
    )
    with (
        Vault.open(settings.vault, passphrase) as vault,
        Ledger(settings.ledger) as ledger,
        _telemetry(settings) as telemetry,
    ):
        del passphrase
        party = _key_holder(settings, deployment, clients, vault, ledger)
        ledger.record(AuditEvent.KEY_LOADED, KEY_HOLDER, key=party.fingerprint)
        note = _Notes(telemetry, ledger)
        gate = Gate(KEY_HOLDER, deployment, settings.plaintext, settings.revoked, note)
        options = _options(settings, deployment, credentials, settings.host)
        service = Service(party, options, _KeyHolderKeeper(party, vault, ledger), gate, note, telemetry)

        async def admitted(started: Service) -> None:
            for client, budget in clients.items():
                await started.server.command(LABORATORY, AdmitClient(client, budget))
            if ready is not None:
                await ready(started)

        asyncio.run(service.serve(admitted))
        ledger.record(AuditEvent.STOPPED, KEY_HOLDER)


def _key_holder(
    settings: KeyHolderSettings, deployment: str, clients: Collection[str], vault: Vault, ledger: Ledger
) -> KeyHolder:
    custody = vault.custody(settings.noise_check != NOISE_IGNORED)
    if custody is None:
        raise VaultError(f"{str(settings.vault)!r} holds no key; `rhe keys new` makes one")
    budgets = DurableBudgets(ledger, settings.query_budget)
    budgets.dismiss_others(clients)
    party = KeyHolder(
        deployment,
        custody.public.plan,
        release=parse_release(settings.release),
        max_images=settings.max_images,
        noise_check=settings.noise_check,
        keys=vault.new_custody,
        custody=custody,
        budgets=budgets,
        used=DurableIds(ledger),
    )
    state = vault.state()
    if state is not None:
        party.restore(state)
    return party


class _KeyHolderKeeper:
    """Keeps a key holder's heads and reasons in the vault, and what it did in the ledger."""

    def __init__(self, party: KeyHolder, vault: Vault, ledger: Ledger) -> None:
        self._party, self._vault, self._ledger = party, vault, ledger
        self._auditor = Auditor(ledger, lambda: party.closures)
        self._kept = party.revision

    def together(self) -> contextlib.AbstractContextManager[object]:
        """See `Keeper.together`: one wait for the disk."""
        return self._ledger.group()

    def keep(self, kind: str, received: bytes, outgoing: list[Outgoing]) -> None:
        """See `Keeper.keep`."""
        if self._party.revision != self._kept:
            try:
                self._vault.save_state(self._party.state())
            except VaultError as error:
                raise ProtocolError(FailureCode.REFUSED, f"the vault cannot be written: {error}") from error
            self._kept = self._party.revision
        self._auditor.keep(kind, received, outgoing)


class _Notes:
    """Where a server's events go: the log, the counters, and refused connections to the ledger, once a second."""

    def __init__(self, telemetry: Telemetry, ledger: Ledger | None) -> None:
        self._telemetry, self._ledger = telemetry, ledger
        self._written = self._untold = 0

    def __call__(self, event: str, who: str, what: str) -> None:
        self._telemetry.happened(event)
        level = logging.INFO if event in _ORDINARY else logging.WARNING
        _LOG.log(level, event, extra={"who": who, "what": what[:_MAX_TEXT]})
        if event != AuditEvent.CONNECTION_REFUSED or self._ledger is None:
            return
        now = int(time.monotonic())
        if now == self._written:  # a stranger that comes again and again must not fill the disk
            self._untold += 1
            return
        with contextlib.suppress(ProtocolError):  # nothing depends on it; the log has it
            self._ledger.record(AuditEvent.CONNECTION_REFUSED, who, reason=what[:_MAX_TEXT], untold_before=self._untold)
        self._written, self._untold = now, 0


def _who(settings: ServiceSettings, role: str) -> tuple[Credentials | None, str]:
    """Credentials, and the deployment that they or the settings name."""
    if settings.certificates is None:
        check_label(settings.deployment, "deployment name")
        return None, settings.deployment
    credentials = load_identity(settings.certificates, role)
    deployment = credentials.identity.deployment
    if settings.deployment not in ("", deployment):
        raise CredentialsError(f"deployment {settings.deployment!r} is set, the certificate is for {deployment!r}")
    return credentials, deployment


def _options(
    settings: ServiceSettings, deployment: str, credentials: Credentials | None, peer: str | None
) -> ServiceOptions:
    limits = Limits(settings.request_seconds, settings.requests_per_client, settings.links, settings.links_per_client)
    return ServiceOptions(settings.listen, deployment, credentials, peer, limits, settings.grace_seconds)


@contextlib.contextmanager
def _telemetry(settings: ServiceSettings) -> Iterator[Telemetry]:
    telemetry = Telemetry()
    end = telemetry.serve(settings.metrics) if settings.metrics else None
    try:
        yield telemetry
    finally:
        if end is not None:
            end()
