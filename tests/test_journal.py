"""What a host keeps: heads and keys come back after any end, and what was revoked or belongs to an old key does not."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from rhe_parties.errors import DataError, ProtocolError
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import PublicMaterial, make_custody, make_encryptor
from rhe_parties.messages import Envelope, Payload, encode
from rhe_parties.messages.payloads import (
    ClassifyRequest,
    ClassifyResponse,
    EncryptedHead,
    Failure,
    HeadInstalled,
    PlainHead,
    RevokeHead,
)
from rhe_parties.model.backbone import load_backbone
from rhe_parties.parties.base import Outgoing
from rhe_parties.parties.model_host import HostLimits, ModelHost
from rhe_parties.service import journal as journal_module
from rhe_parties.service.journal import Journal
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST

BACKBONE = load_backbone("strokenet")
PLAN = plan_head(BACKBONE.features, 3, scheme="plain")


class _Host:
    """A host with its journal, as a server runs it."""

    def __init__(self, folder: Path) -> None:
        self.party = ModelHost("lab", BACKBONE, HostLimits(takes_features=True))
        self.journal = Journal(folder)
        self.restored = self.journal.restore(self.party)
        self._sequence = 0

    def take(self, sender: str, payload: Payload) -> list[Outgoing]:
        self._sequence += 1
        envelope = Envelope("lab", sender, MODEL_HOST, self._sequence, 0, payload)
        data = encode(envelope)
        outgoing = self.party.respond(data)
        self.journal.keep(envelope.kind, data, outgoing)
        return outgoing

    def serves(self, head_id: str) -> bool:
        request = ClassifyRequest(f"r{self._sequence}", head_id, features=np.ones((1, BACKBONE.features), np.float32))
        (reply,) = self.take(KEY_HOLDER, request)
        assert isinstance(reply.envelope.payload, ClassifyResponse | Failure)
        return isinstance(reply.envelope.payload, ClassifyResponse)


def _plain(head_id: str) -> PlainHead:
    return PlainHead(
        head_id, np.ones((3, BACKBONE.features), np.float32), np.zeros(3, np.float32), BACKBONE.fingerprint
    )


def _encrypted(head_id: str, public: PublicMaterial) -> EncryptedHead:
    held, _ = make_encryptor(public).encrypt(np.ones((3, BACKBONE.features)), np.zeros(3))
    return EncryptedHead(head_id, held.key_fingerprint, BACKBONE.fingerprint, held.ciphertexts)


def test_heads_come_back(tmp_path: Path) -> None:
    public = make_custody(PLAN).public
    host = _Host(tmp_path / "state")
    assert host.restored == []
    host.take(DATA_OWNER, _plain("clear"))
    host.take(DATA_OWNER, _encrypted("waits", public))  # for the key, which comes now
    outgoing = host.take(KEY_HOLDER, public)
    assert [type(item.envelope.payload) for item in outgoing] == [HeadInstalled]
    host.take(DATA_OWNER, _encrypted("at once / any name", public))
    again = _Host(tmp_path / "state")
    assert set(again.restored) == {"clear", "waits", "at once / any name"}
    assert all(again.serves(head_id) for head_id in again.restored)
    assert not (set(os.listdir(tmp_path / "state")) & {"waits", "clear"})


def test_a_revoked_head_does_not_come_back(tmp_path: Path) -> None:
    host = _Host(tmp_path)
    host.take(DATA_OWNER, _plain("a"))
    host.take(DATA_OWNER, _plain("b"))
    host.take(DATA_OWNER, RevokeHead("a"))
    assert (host.serves("a"), host.serves("b")) == (False, True)
    assert _Host(tmp_path).restored == ["b"]


def test_heads_of_an_old_key_do_not_come_back(tmp_path: Path) -> None:
    first, second = (
        make_custody(PLAN).public,
        make_custody(plan_head(BACKBONE.features, 3, batch=4, scheme="plain")).public,
    )
    host = _Host(tmp_path)
    host.take(KEY_HOLDER, first)
    host.take(DATA_OWNER, _encrypted("old", first))
    host.take(DATA_OWNER, _plain("clear"))
    host.take(KEY_HOLDER, second)
    host.take(DATA_OWNER, _encrypted("new", second))
    again = _Host(tmp_path)
    assert set(again.restored) == {"clear", "new"}
    assert not again.serves("old")


def test_a_head_that_is_refused_is_not_kept_in_the_place_of_one_of_its_name_that_waits(tmp_path: Path) -> None:
    public = make_custody(PLAN).public
    host = _Host(tmp_path)
    host.take(DATA_OWNER, _encrypted("a", public))
    refused = dataclasses.replace(_encrypted("a", public), backbone_fingerprint="0" * 64)
    assert isinstance(host.take(DATA_OWNER, refused)[0].envelope.payload, Failure)
    host.take(KEY_HOLDER, public)
    assert host.serves("a")
    again = _Host(tmp_path)
    assert again.restored == ["a"]
    assert again.serves("a")


def test_a_head_whose_key_was_replaced_just_before_a_crash_goes_with_the_next_start(tmp_path: Path) -> None:
    old, new = make_custody(PLAN).public, make_custody(plan_head(BACKBONE.features, 3)).public
    host = _Host(tmp_path)
    host.take(KEY_HOLDER, old)
    host.take(DATA_OWNER, _encrypted("a", old))
    left = {path: path.read_bytes() for path in tmp_path.glob("head-*")}
    host.take(KEY_HOLDER, new)
    for path, data in left.items():
        path.write_bytes(data)
    assert _Host(tmp_path).restored == []
    assert [path.name for path in tmp_path.iterdir()] == ["material.envelope"]


def test_a_full_disk_is_said_and_costs_nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = _Host(tmp_path)
    host.take(DATA_OWNER, _plain("a"))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_module.os, "fsync", full)
    with pytest.raises(ProtocolError, match="cannot keep it: No space left on device"):
        host.take(DATA_OWNER, _plain("b"))
    monkeypatch.undo()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".envelope"]
    assert _Host(tmp_path).restored == ["a"]


def test_damaged_files_are_left_and_the_others_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    host = _Host(tmp_path)
    host.take(DATA_OWNER, _plain("a"))
    (kept,) = tmp_path.iterdir()
    (tmp_path / "head-damaged.envelope").write_bytes(kept.read_bytes()[:-7])
    foreign = Envelope("elsewhere", DATA_OWNER, MODEL_HOST, 1, 0, _plain("c"))
    (tmp_path / "head-foreign.envelope").write_bytes(encode(foreign))
    # A write that was cut off leaves a file that is never read.
    (tmp_path / ".head-half.envelope.new").write_bytes(b"half")
    assert _Host(tmp_path).restored == ["a"]
    assert not (tmp_path / ".head-half.envelope.new").exists()
    assert [record.getMessage() for record in caplog.records].count("not restored") == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot make folder"):
        Journal(tmp_path / "file" / "state")
