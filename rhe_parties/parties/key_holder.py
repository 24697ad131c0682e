"""KeyHolder: the secret key is born here and has no way out; it asks, decrypts, and releases classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from rhe_parties.errors import FailureCode, NumericError, ProtocolError, SchemeError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.scheme import KeyCustody, LogitCiphertexts, make_custody
from rhe_parties.messages import Envelope
from rhe_parties.messages.payloads import (
    AskDecisions,
    ClassifyRequest,
    ClassifyResponse,
    Decision,
    HeadNotice,
    HeadReady,
    PublicMaterialRequest,
)
from rhe_parties.parties.base import Party
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.types import AnyArray

__all__ = ["KeyHolder"]


@dataclass(frozen=True)
class _Open:
    asked: Envelope
    head: HeadNotice
    batch: int


class KeyHolder(Party):
    """Makes the keys (when a plan is given), asks the host for classifications and releases decisions only.

    Args:
        plan: parameters of the encrypted head, None in a world without encryption.
        query_budget: images decided over the whole run, 0 for no limit.
    """

    def __init__(self, run_id: str, plan: HeadPlan | None, query_budget: int = 0) -> None:
        super().__init__(KEY_HOLDER, run_id)
        self._custody: KeyCustody | None = None if plan is None else make_custody(plan)
        self._heads: dict[str, HeadNotice] = {}
        self._open: dict[str, _Open] = {}
        self._closed: set[str] = set()
        self._budget = query_budget
        self._decided = 0
        self._handlers |= {
            PublicMaterialRequest: self._on_public_material_request,
            HeadNotice: self._on_head_notice,
            AskDecisions: self._on_ask,
            ClassifyResponse: self._on_response,
        }

    def __reduce__(self) -> NoReturn:
        raise TypeError("a KeyHolder cannot be pickled or copied: its secret key has no way out")

    def _on_public_material_request(self, envelope: Envelope, _payload: PublicMaterialRequest) -> list[Envelope]:
        if self._custody is None:
            raise ProtocolError(FailureCode.UNEXPECTED, "this run has no encryption, so there is no public key")
        return [self.answer(envelope, self._custody.public)]

    def _on_head_notice(self, envelope: Envelope, payload: HeadNotice) -> list[Envelope]:
        self.require_sender(envelope, DATA_OWNER)
        if payload.encrypted and self._custody is None:
            raise ProtocolError(FailureCode.UNEXPECTED, f"head {payload.head_id!r} is encrypted, this run has no key")
        self._heads[payload.head_id] = payload
        return [self.answer(envelope, HeadReady(payload.head_id))]

    def _on_ask(self, envelope: Envelope, payload: AskDecisions) -> list[Envelope]:
        self.require_sender(envelope, LABORATORY)
        head = self._heads.get(payload.head_id)
        if head is None:
            raise ProtocolError(
                FailureCode.NOT_INSTALLED,
                f"head {payload.head_id[:64]!r} is unknown to the key holder ({len(self._heads)} are known)",
            )
        if payload.request_id in self._open or payload.request_id in self._closed:
            raise ProtocolError(FailureCode.REPLAY, f"request id {payload.request_id[:64]!r} was used before")
        batch = payload.images.shape[0]
        if self._budget and self._decided + batch > self._budget:
            raise ProtocolError(
                FailureCode.REFUSED,
                f"query budget: {self._decided} of {self._budget} images are decided, {batch} more were asked for",
            )
        self._decided += batch
        self._open[payload.request_id] = _Open(envelope, head, batch)
        request = ClassifyRequest(payload.request_id, payload.head_id, payload.images)
        return [self.send(MODEL_HOST, request, cause=envelope)]

    def _on_response(self, envelope: Envelope, payload: ClassifyResponse) -> list[Envelope]:
        self.require_sender(envelope, MODEL_HOST)
        opened = self._open.get(payload.request_id)
        if opened is None:
            raise ProtocolError(
                FailureCode.REPLAY, f"no request {payload.request_id[:64]!r} is open: a reply counts once"
            )
        if (payload.head_id, payload.head_fingerprint) != (opened.head.head_id, opened.head.fingerprint):
            raise SchemeError(
                FailureCode.BAD_VALUE,
                f"the reply is from another head than the one asked ({opened.head.head_id!r})",
            )
        logits = self._logits(payload, opened)
        del self._open[payload.request_id]
        self._closed.add(payload.request_id)
        classes = np.argmax(logits, axis=1).astype(np.int64)
        decision = Decision(payload.request_id, payload.head_id, classes, payload.saturated)
        return [self.answer(opened.asked, decision)]

    def _logits(self, payload: ClassifyResponse, opened: _Open) -> AnyArray:
        if payload.batch != opened.batch:
            raise NumericError(f"the reply is for {payload.batch} images, {opened.batch} were asked")
        if bool(payload.ciphertexts) != opened.head.encrypted:
            raise SchemeError(FailureCode.BAD_VALUE, "plain reply for an encrypted head, or the other way round")
        if not opened.head.encrypted:
            logits: AnyArray = payload.plain_logits
        elif self._custody is not None:
            logits = self._custody.decrypt(LogitCiphertexts(payload.ciphertexts, payload.batch))
        else:
            raise ProtocolError(FailureCode.UNEXPECTED, "this run has no key")
        if logits.shape != (opened.batch, opened.head.classes):
            raise NumericError(
                f"logits of shape {list(logits.shape)}, expected {[opened.batch, opened.head.classes]}",
                FailureCode.BAD_TENSOR,
            )
        return logits

    @property
    def fingerprint(self) -> str:
        """Of the public material, or "" without encryption."""
        return "" if self._custody is None else self._custody.public.fingerprint

    def __repr__(self) -> str:
        return f"KeyHolder(key {self.fingerprint[:12] or 'none'}, {len(self._heads)} heads, {self._decided} decided)"
