"""KeyHolder: the secret key is born here and has no way out; it asks, decrypts, and releases by its policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import numpy as np

from rhe_parties.errors import (
    FailureCode,
    NoiseError,
    NumericError,
    ParameterError,
    ProtocolError,
    SchemeError,
)
from rhe_parties.he.noise import ckks_error
from rhe_parties.he.plan import CKKS_SCALE_BITS, HeadPlan
from rhe_parties.he.scheme import KeyCustody, LogitCiphertexts, make_custody
from rhe_parties.he.tag import tag_holds
from rhe_parties.messages import Envelope
from rhe_parties.messages.checks import empty
from rhe_parties.messages.key_state import decode_state, encode_state
from rhe_parties.messages.payloads import (
    AdmitClient,
    AskDecisions,
    ClassifyRequest,
    ClassifyResponse,
    ClientAdmitted,
    Decision,
    HeadNotice,
    HeadReady,
    HeadRevoked,
    HeadsRenewed,
    KeyRotated,
    PublicMaterialRequest,
    ResponsePart,
    RevokeHead,
    RotateKey,
)
from rhe_parties.messages.public import export_public
from rhe_parties.messages.setups import MAX_IMAGES, NOISE_CLOSES, NOISE_IGNORED
from rhe_parties.parties.base import Asker, Party
from rhe_parties.parties.budgets import Budgets
from rhe_parties.parties.canaries import Canaries, Canary
from rhe_parties.parties.known_heads import KnownHeads
from rhe_parties.parties.open_requests import MAX_OPEN, OpenRequest, OpenRequests
from rhe_parties.parties.recent import UsedIds
from rhe_parties.parties.release import RAW_SCHEME, Release
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.types import AnyArray

__all__ = ["KeyHolder", "Keys"]

#: Makes keys for a plan, with or without a noise check, as `make_custody` does; who keeps them puts them away first.
Keys: TypeAlias = Callable[[HeadPlan, bool], KeyCustody]
# Numbers of raw values in one decision, 8 bytes each.
MAX_RAW_VALUES = 2**24
# How far noise is bounded, in deviations.
_DEVIATIONS = 6.0


class KeyHolder(Party):
    """Makes the keys (when a plan is given), asks the host for classifications and releases decisions.

    Args:
        plan: parameters of the encrypted head, None in a world without encryption.
        query_budget: images decided over the whole run, 0 for no limit.
        release: what goes out, and the defences that act on it.
        max_images: most inputs in one request.
        noise_check: what happens on a reply noisier than honest ones: `close`: nothing more is decided under this key,
            as every single refusal tells the reply's maker a bit of it; `refuse`: this reply is refused; `off`: none
            is, whatever it decrypts to.
        keys: where keys come from, the first ones and those of a rotation.
        custody: keys to start with, for the same plan; None: new ones.
        canaries: sends inputs with known classes along; a wrong one closes its head.
        budgets: counts in place of `query_budget`, such as on disk.
        used: remembers the ids of requests; None: the latest in memory.

    Raises:
        ParameterError: raw values shall go out, and the plan's scheme has none; or `custody` is for another plan.
    """

    def __init__(
        self,
        run_id: str,
        plan: HeadPlan | None,
        query_budget: int = 0,
        release: Release | None = None,
        max_images: int = MAX_IMAGES,
        noise_check: str = NOISE_CLOSES,
        keys: Keys = make_custody,
        custody: KeyCustody | None = None,
        canaries: Canaries | None = None,
        budgets: Budgets | None = None,
        used: UsedIds | None = None,
    ) -> None:
        super().__init__(KEY_HOLDER, run_id)
        self._noise_check = noise_check
        self._make_keys = keys
        if custody is not None and custody.public.plan != plan:
            raise ParameterError(f"the key {custody.public.fingerprint[:12]!r} is for another plan than the given one")
        self._custody = custody
        if custody is None and plan is not None:
            self._custody = self._new_keys(plan)
        self._release = release if release is not None else Release()
        if self._release.raw and (plan is None or plan.scheme != RAW_SCHEME):
            raise ParameterError(f"release={self._release.name!r} is not allowed without scheme {RAW_SCHEME!r}")
        self._known = KnownHeads()
        self._open = OpenRequests(used)
        self._budgets = budgets if budgets is not None else Budgets(query_budget)
        self._canaries = canaries if canaries is not None else Canaries(None, 0.0)
        self._max_images = max_images
        self._handlers |= {
            AdmitClient: self._on_admit_client,
            PublicMaterialRequest: self._on_public_material_request,
            HeadNotice: self._on_head_notice,
            RevokeHead: self._on_revoke,
            AskDecisions: self._on_ask,
            ClassifyResponse: self._on_response,
            RotateKey: self._on_rotate,
            HeadsRenewed: self._on_heads_renewed,
        }

    def __reduce__(self) -> NoReturn:
        raise TypeError("a KeyHolder cannot be pickled or copied: its secret key has no way out")

    # ---- keys and heads ----------------------------------------------------------------------------------------

    def _new_keys(self, plan: HeadPlan) -> KeyCustody:
        return self._make_keys(plan, self._noise_check != NOISE_IGNORED)

    def _keys(self) -> KeyCustody:
        if self._custody is None:
            raise ProtocolError(FailureCode.UNEXPECTED, "this run has no encryption, so there is no key")
        return self._custody

    def _on_public_material_request(self, envelope: Envelope, _payload: PublicMaterialRequest) -> list[Envelope]:
        return [self.answer(envelope, self._keys().public)]

    def export_public(self) -> bytes:
        """The public material alone, for `rhe_parties.messages.public.import_public`.

        Raises:
            ProtocolError: UNEXPECTED in a run without encryption.
        """
        return export_public(self._keys().public)

    def _on_head_notice(self, envelope: Envelope, payload: HeadNotice) -> list[Envelope]:
        self.require_sender(envelope, DATA_OWNER)
        if payload.encrypted:
            self._check_key(payload.key_fingerprint, f"head {payload.head_id[:64]!r} was encrypted")
        self._known.add(payload)
        return [self.answer(envelope, HeadReady(payload.head_id)), *self._rotated()]

    def _on_revoke(self, envelope: Envelope, payload: RevokeHead) -> list[Envelope]:
        """What is under way for the head is refused; a rotation does not wait for it."""
        self.require_sender(envelope, DATA_OWNER)
        known = self._known.remove(payload.head_id)
        opened = self._open.where(lambda request: request.head.head_id == payload.head_id)
        error = ProtocolError(FailureCode.NOT_INSTALLED, f"head {payload.head_id[:64]!r} was revoked by its owner")
        replies = self._refused([self._close(request_id) for request_id in opened], error)
        return [*replies, self.answer(envelope, HeadRevoked(payload.head_id, known)), *self._rotated()]

    def _check_key(self, fingerprint: str, what: str) -> None:
        if fingerprint != self._keys().public.fingerprint:
            raise SchemeError(
                FailureCode.WRONG_KEY, f"{what} for key {fingerprint[:12]!r}; the key is {self.fingerprint[:12]!r}"
            )

    def _on_rotate(self, envelope: Envelope, _payload: RotateKey) -> list[Envelope]:
        """New keys at once; the old ones are gone with everything that was under way under them."""
        self.require_sender(envelope, LABORATORY)
        old = self._keys().public
        self._custody = self._new_keys(old.plan)
        text = f"key {old.fingerprint[:12]!r} was replaced before the host's answer came"
        replies = self._give_up(SchemeError(FailureCode.WRONG_KEY, text))
        overtaken = self._known.replaced(old.fingerprint, Asker.of(envelope))
        if overtaken is not None:
            error = ProtocolError(FailureCode.REFUSED, "another rotation overtook this one")
            replies.append(self.refuse(overtaken, error))
        material = self._custody.public
        replies += [self.send(party, material, cause=envelope) for party in (MODEL_HOST, DATA_OWNER)]
        return [*replies, *self._rotated()]

    def _on_heads_renewed(self, envelope: Envelope, payload: HeadsRenewed) -> list[Envelope]:
        """A head that the owner does not have (any more) cannot be waited for."""
        self.require_sender(envelope, DATA_OWNER)
        self._known.renewed(payload.head_ids)
        return self._rotated()

    def _give_up(self, error: ProtocolError) -> list[Envelope]:
        """Refuse everything that is under way under this key."""
        request_ids = self._open.where(lambda request: request.head.encrypted)
        return self._refused([self._close(request_id) for request_id in request_ids], error)

    def _refused(self, opened: list[OpenRequest], error: ProtocolError) -> list[Envelope]:
        """The refusals to whoever waits; for a canary nobody does."""
        return [self.refuse(request.asker, error) for request in opened if request.expected < 0]

    def _rotated(self) -> list[Envelope]:
        """The end of a rotation, when it waits for no head any more."""
        rotation = self._known.finished()
        if rotation is None or rotation.asker is None:
            return []
        return [self.answer(rotation.asker, KeyRotated(rotation.old, self.fingerprint, rotation.heads))]

    # ---- kept while nothing is served --------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Counts the changes of what `state` gives, so that a server keeps it before it answers."""
        return self._known.revision

    @property
    def closures(self) -> dict[str, str]:
        """See `KnownHeads.closures`."""
        return self._known.closures

    def state(self) -> bytes:
        """What is known of heads and of an open rotation, for `restore`; secret: it holds scales and tags of heads.

        Neither keys nor budgets, used request ids or open requests are part of it.
        """
        return encode_state(self._known.state(self.run_id, self.fingerprint))

    def restore(self, state: bytes) -> None:
        """Take up what `state` gave; once, before anything is served.

        Where the key is another by now, the encrypted heads of the state have to be encrypted and installed anew.

        Raises:
            ProtocolError: MALFORMED for damaged bytes, UNEXPECTED for the state of another run.
        """
        kept = decode_state(state)
        if kept.run_id != self.run_id:
            raise ProtocolError(
                FailureCode.UNEXPECTED, f"state of run {kept.run_id[:64]!r}; this party serves run {self.run_id!r}"
            )
        self._known.restore(kept, self.fingerprint)

    # ---- asking ------------------------------------------------------------------------------------------------

    def _on_admit_client(self, envelope: Envelope, payload: AdmitClient) -> list[Envelope]:
        """From now on `client` may ask too; it gets what the release policy lets out, and is counted by head."""
        self.require_sender(envelope, LABORATORY)
        self._budgets.admit(payload.client, payload.budget)
        admitted = ClientAdmitted(payload.client, payload.budget, self._release.name)
        return [self.send(payload.client, admitted), self.answer(envelope, admitted)]

    def _on_ask(self, envelope: Envelope, payload: AskDecisions) -> list[Envelope]:
        self.require_sender(envelope, LABORATORY, *self._budgets.clients)
        head, batch = self._known.find(payload.head_id), payload.batch
        if self._open.known(payload.request_id):
            raise ProtocolError(FailureCode.REPLAY, f"request id {payload.request_id[:64]!r} was used before")
        if batch > self._max_images:
            raise NumericError(
                f"{batch} inputs in one request; at most {self._max_images} are allowed", FailureCode.OVERSIZED
            )
        self._check_raw(batch, head.classes)
        with self._budgets.together():
            self._budgets.count(envelope.sender, payload.head_id, batch)
            canaries = self._canaries.due(head.canaries, batch)
            self._open.use(payload.request_id, *(canary.request_id for canary in canaries))
        request = ClassifyRequest(payload.request_id, payload.head_id, payload.images, payload.features)
        sent = self.send(MODEL_HOST, request, cause=envelope)
        self._open.add(payload.request_id, OpenRequest(Asker.of(envelope), head, batch, sent.sequence))
        return [sent, *self._canary_requests(head, canaries), *self._forget_the_oldest()]

    def _canary_requests(self, head: HeadNotice, canaries: list[Canary]) -> list[Envelope]:
        envelopes = []
        for canary in canaries:
            sent = self.send(MODEL_HOST, ClassifyRequest(canary.request_id, head.head_id, canary.image))
            request = OpenRequest(Asker(KEY_HOLDER, 0), head, 1, sent.sequence, canary.expected)
            self._open.add(canary.request_id, request)
            envelopes.append(sent)
        return envelopes

    def _check_raw(self, batch: int, classes: int) -> None:
        if not self._release.raw:
            return
        most = MAX_RAW_VALUES // (classes * self._keys().public.plan.degree // 2)
        if batch > most:
            raise NumericError(
                f"{batch} inputs in one request; at most {most} are allowed where raw values are released",
                FailureCode.OVERSIZED,
            )

    def _forget_the_oldest(self) -> list[Envelope]:
        overdue = self._open.overdue()
        if not overdue:
            return []
        error = ProtocolError(FailureCode.REFUSED, f"no answer came, and {MAX_OPEN} later requests are open")
        return self._refused([self._close(request_id) for request_id in overdue], error)

    def _close(self, request_id: str) -> OpenRequest:
        opened = self._open.close(request_id)
        self.settle(opened.sequence)
        return opened

    def _on_errand_failed(self, sequence: int, asker: Asker) -> None:
        del asker
        for request_id in self._open.where(lambda request: request.sequence == sequence):
            self._close(request_id)

    # ---- answers -----------------------------------------------------------------------------------------------

    def _on_response(self, envelope: Envelope, payload: ClassifyResponse) -> list[Envelope]:
        """Decide for every part; a response that does not fit as a whole changes nothing."""
        self.require_sender(envelope, MODEL_HOST)
        if payload.key_fingerprint:
            self._check_key(payload.key_fingerprint, "the reply was computed")
        opened = self._open.answered_by(payload)
        head = opened[0].head
        try:
            logits, raw = self._opened(payload, head)
        except NoiseError as error:
            if self._noise_check != NOISE_CLOSES:
                raise
            return self._close_key(envelope, error)
        if head.tag.size:
            if not tag_holds(logits, head.tag, self._keys().public.plan):
                return self._stop(envelope, payload, opened, "its tag does not hold")
            logits = logits[:, :-1]
        expected = np.repeat([request.expected for request in opened], [part.batch for part in payload.parts])
        if ((expected >= 0) & (logits.argmax(axis=1) != expected)).any():
            return self._stop(envelope, payload, opened, "a canary got another class than its own")
        decisions, start = [], 0
        for part, request in zip(payload.parts, opened, strict=True):
            rows = slice(start, start + part.batch)
            start += part.batch
            if request.expected >= 0:
                continue
            used = self._budgets.used(request.asker.name, request.head.head_id)
            decisions.append(self._decision(part, request.head, logits[rows], raw[rows], used))
        # Nothing can fail from here on.
        waiting = [request.asker for request in opened if request.expected < 0]
        replies = [self.answer(asker, decision) for asker, decision in zip(waiting, decisions, strict=True)]
        for part in payload.parts:
            self._close(part.request_id)
        return replies

    def _stop(
        self, envelope: Envelope, payload: ClassifyResponse, opened: list[OpenRequest], why: str
    ) -> list[Envelope]:
        """No honest host computes what this reply holds: nothing of it goes out, nor anything more of this head."""
        head_id = payload.head_id
        reason = f"a reply was none that an honest host computes: {why}"
        self._known.stop(head_id, reason)
        error = ProtocolError(FailureCode.REFUSED, f"head {head_id[:64]!r}: {reason}")
        replies = self._refused(opened, error)
        for part in payload.parts:
            self._close(part.request_id)
        return [*replies, self.refuse(Asker.of(envelope), error)]

    def _close_key(self, envelope: Envelope, error: NoiseError) -> list[Envelope]:
        """That it was refused is a bit of the key to whoever made the reply: it gets one such bit and no more."""
        reason = f"key {self.fingerprint[:12]!r} is closed until it is replaced: no honest host computes such a reply"
        self._known.close(reason)
        told = NoiseError(error.code, f"{error.text}; {reason}")
        return [*self._give_up(told), self.refuse(Asker.of(envelope), told)]

    def _opened(self, payload: ClassifyResponse, head: HeadNotice) -> tuple[AnyArray, AnyArray]:
        """Logits [B, K], and what goes out of the decoded slots [B, K, S]: nothing unless the policy is `raw`."""
        batch, raw = payload.batch, empty(np.float32)
        logits: AnyArray = payload.plain_logits
        if head.encrypted:
            custody: Any = self._keys()
            reply = LogitCiphertexts(payload.ciphertexts, batch)
            if self._release.raw:
                slots = custody.decrypt_slots(reply)
                logits, raw = slots[..., 0], self._release.slots(slots, self._budgets.most, self._noise())
            else:
                logits = custody.decrypt(reply)
        rows = head.classes + bool(head.tag.size)
        if logits.shape != (batch, rows):
            raise NumericError(
                f"logits of shape {list(logits.shape)}, expected {[batch, rows]}", FailureCode.BAD_TENSOR
            )
        return logits, raw

    def _noise(self) -> float:
        """Bound on the noise of a decoded slot."""
        plan = self._keys().public.plan
        return _DEVIATIONS * ckks_error(plan.degree, plan.features, CKKS_SCALE_BITS)

    def _decision(self, part: ResponsePart, head: HeadNotice, logits: AnyArray, raw: AnyArray, used: int) -> Decision:
        """What the policy and its defences make of the exact logits."""
        classes, released = self._release.answer(logits, head.weight_scale if head.encrypted else 1.0)
        return Decision(part.request_id, head.head_id, classes, part.saturated, released, used, raw)

    @property
    def fingerprint(self) -> str:
        """Of the public material, or "" without encryption."""
        return "" if self._custody is None else self._custody.public.fingerprint

    def __repr__(self) -> str:
        decided = self._budgets.decided
        return f"KeyHolder(key {self.fingerprint[:12] or 'none'}, {len(self._known)} heads, {decided} decided)"
