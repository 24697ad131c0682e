"""The key holder's folder: private, whole after every crash, and never a secret in the clear."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyrage
import pytest
import tenseal.sealapi as sealapi

from rhe_parties.cli.main import main
from rhe_parties.errors import ParameterError, VaultError
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import KeyCustody, LogitCiphertexts, make_encryptor, make_evaluator
from rhe_parties.messages import Envelope
from rhe_parties.messages import payloads as p
from rhe_parties.messages.public import import_public
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.service.passphrase import find_passphrase
from rhe_parties.service.private_files import PrivateFolder
from rhe_parties.service.vault import IDENTITY, KEY, PUBLIC, STATE, VAULT_FILES, Vault, look_into
from tests.key_spy import KeySpy, key_needles

PLAN = plan_head(4, 2)
WORDS = "correct horse battery"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One vault with key and state; its identity, as deriving it from the passphrase takes a second each time."""
    folder = tmp_path_factory.mktemp("made") / "vault"
    patch = pytest.MonkeyPatch()
    KeySpy.seen.clear()
    patch.setattr(sealapi, "KeyGenerator", KeySpy)
    with Vault.create(folder, WORDS) as vault:
        custody = vault.new_custody(PLAN)
        vault.save_state(b"state of the first key: secret scales")
        identity = vault._Vault__identity  # type: ignore[attr-defined]
        (secret,) = KeySpy.seen
        yield SimpleNamespace(folder=folder, identity=identity, public=custody.public, secret=secret)
    patch.undo()


@pytest.fixture
def copy(made: SimpleNamespace, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    shutil.copytree(made.folder, target)
    return target


def _opened(folder: Path, made: SimpleNamespace) -> Vault:
    """As `Vault.open`, without the second that the passphrase costs."""
    return Vault(PrivateFolder(folder), made.identity)


def test_a_disk_that_is_full_right_after_the_key_leaves_no_other_key_served_than_kept(
    made: SimpleNamespace, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PrivateFolder.write

    def full(folder: PrivateFolder, name: str, data: bytes) -> None:
        if name == PUBLIC:
            raise VaultError("no room")
        write(folder, name, data)

    with _opened(copy, made) as vault:
        monkeypatch.setattr(PrivateFolder, "write", full)
        served = vault.new_custody(PLAN)
        monkeypatch.undo()
        kept = vault.custody()
        assert kept is not None
        assert kept.public == served.public == vault.public() != made.public
    assert look_into(copy)[1] == served.public


def _reply(custody: KeyCustody) -> LogitCiphertexts:
    head, _ = make_encryptor(custody.public).encrypt(np.ones((2, 4)), np.array([0.0, 1.0]))
    return make_evaluator(custody.public, head).evaluate(np.ones((1, 4)))[0]


def test_key_and_state_are_there_again_after_opening(made: SimpleNamespace, copy: Path) -> None:
    with Vault.open(copy, WORDS) as vault:
        custody = vault.custody()
        assert custody is not None
        assert custody.public == vault.public() == made.public
        assert custody.decrypt(_reply(custody)).argmax() == 1
        assert vault.state() == b"state of the first key: secret scales"
        assert WORDS not in repr(vault)
        with pytest.raises(TypeError, match="holds a secret key"):
            vault.__reduce__()
        assert vault.custody(noise_check=False) is not None
    with pytest.raises(VaultError, match=r"the passphrase is not that of '.*copy/identity.age'"):
        Vault.open(copy, WORDS + "!")


def test_no_byte_of_the_secret_lies_on_a_disk_in_the_clear(
    made: SimpleNamespace, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(copy.parent))
    with _opened(copy, made) as vault:
        vault.custody()
        vault.backup(copy.parent / "backup.tar")
    needles = [*key_needles(made.secret, PLAN.degree), b"secret scales", b"AGE-SECRET-KEY-"]
    files = [path for path in copy.parent.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {*VAULT_FILES, "backup.tar"}
    for path in files:
        assert not any(needle in path.read_bytes() for needle in needles), path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.public.public_key in (copy / PUBLIC).read_bytes()  # the search would find what is there


def test_a_new_key_replaces_the_old_one_and_nothing_else(made: SimpleNamespace, copy: Path) -> None:
    with _opened(copy, made) as vault:
        old = vault.custody()
        new = vault.new_custody(PLAN)
        assert vault.public() == new.public != made.public
        assert vault.state() is not None
        again = vault.custody()
    assert again is not None
    assert again.decrypt(_reply(new)).argmax() == 1
    assert old is not None
    with pytest.raises(Exception, match="made for another key"):
        again.decrypt(_reply(old))
    assert {path.name for path in copy.iterdir()} == set(VAULT_FILES)


class Crash(BaseException):
    """The machine stops: nothing catches it."""


STEPS = ("unlink", "open", "fchmod", "fsync", "replace")


def test_a_crash_at_any_step_leaves_the_old_key_or_the_new_one(
    made: SimpleNamespace, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = SimpleNamespace(left=0, kind=Crash())

    def stopping(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls.left -= 1
            if calls.left == 0:
                raise calls.kind
            return real(*arguments, **options)

        return call

    survivors, whole, number = [], False, 0
    while not whole:
        number += 1
        folder = copy.parent / str(number)
        shutil.copytree(copy, folder)
        vault = _opened(folder, made)
        calls.kind = Crash() if number % 2 else OSError(28, "No space left on device")
        with monkeypatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, stopping(name))
            calls.left = number
            with suppress(Crash, VaultError):
                vault.new_custody(PLAN)
            whole = calls.left > 0
        vault.close()
        with _opened(folder, made) as again:
            custody = again.custody()
            assert custody is not None
            assert again.public() == custody.public
            assert custody.decrypt(_reply(custody)).argmax() == 1
            survivors.append(custody.public == made.public)
    # The old key up to some step, the new one from there on.
    assert survivors == sorted(survivors, reverse=True)
    assert len(survivors) > 10
    assert survivors[0]
    assert survivors.count(False) > 2


def test_what_a_crash_left_is_removed_when_the_vault_is_opened(copy: Path) -> None:
    left = copy / f".{KEY}.new"
    left.write_bytes(b"half a key")
    with Vault.open(copy, WORDS):
        assert not left.exists()


def test_a_vault_is_used_by_one_process_at_a_time(made: SimpleNamespace, copy: Path) -> None:
    with _opened(copy, made):
        with pytest.raises(VaultError, match="is in use by another process"):
            PrivateFolder(copy)
        assert look_into(copy)[1] == made.public
    PrivateFolder(copy).close()


@pytest.mark.parametrize("name", ["", IDENTITY, KEY, STATE, PUBLIC])
def test_folder_and_files_that_others_can_read_are_refused(name: str, copy: Path) -> None:
    wanted = "0600" if name else "0700"
    (copy / name).chmod(0o640 if name else 0o750)
    message = rf"copy{'/' + name if name else ''}' is of mode 0[67][45]0, wanted is {wanted}; it is not used"
    for opening in (lambda: Vault.open(copy, WORDS), lambda: look_into(copy)):
        with pytest.raises(VaultError, match=message):
            opening()


def test_what_belongs_to_somebody_else_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    with pytest.raises(VaultError, match=rf"is of user {us}, not of user {us + 1} who runs this"):
        Vault.open(copy, WORDS)


def test_symbolic_links_and_odd_files_are_refused(made: SimpleNamespace, copy: Path) -> None:
    link = copy.parent / "link"
    link.symlink_to(copy)
    with pytest.raises(VaultError, match="link' is a symbolic link"):
        Vault.open(link, WORDS)
    with pytest.raises(VaultError, match="is not a folder"):
        Vault.open(copy / KEY, WORDS)
    (copy / KEY).rename(copy.parent / KEY)
    (copy / KEY).symlink_to(copy.parent / KEY)
    with pytest.raises(VaultError, match=r"key.age' is a symbolic link"):
        Vault.open(copy, WORDS)
    with _opened(copy, made) as vault, pytest.raises(VaultError, match=r"key.age' is a symbolic link"):
        vault.custody()
    (copy / KEY).unlink()
    os.mkfifo(copy / KEY, 0o600)
    with _opened(copy, made) as vault, pytest.raises(VaultError, match=r"key.age' is no ordinary file"):
        vault.custody()


def test_damage_is_named(made: SimpleNamespace, copy: Path) -> None:
    for name, use in ((KEY, Vault.custody), (STATE, Vault.state), (PUBLIC, Vault.public)):
        good = (copy / name).read_bytes()
        (copy / name).write_bytes(good[:-7] + b"damaged")
        with _opened(copy, made) as vault, pytest.raises(VaultError, match=rf"{name}' is "):
            use(vault)
        (copy / name).write_bytes(good)
    (copy / PUBLIC).write_bytes(b"nonsense")
    with pytest.raises(VaultError, match=r"public.binpb' is damaged"):
        look_into(copy)
    identity = (copy / IDENTITY).read_bytes()
    for damaged in (identity[:-1], identity[:60], b""):
        (copy / IDENTITY).write_bytes(damaged)
        with pytest.raises(VaultError, match=r"identity.age' cannot be opened: it is damaged"):
            Vault.open(copy, WORDS)
    (copy / IDENTITY).unlink()
    with pytest.raises(VaultError, match=r"is no vault: it holds no identity.age"):
        Vault.open(copy, WORDS)


def test_a_folder_that_holds_something_is_no_place_for_a_new_vault(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="is a vault already"):
        Vault.create(copy, WORDS)
    other = tmp_path / "other"
    other.mkdir(0o700)
    (other / "letters").touch()
    with pytest.raises(VaultError, match=r"is not empty \(it holds 'letters'\)"):
        Vault.create(other, WORDS)
    other.chmod(0o755)
    with pytest.raises(VaultError, match="of mode 0755, wanted is 0700"):
        Vault.create(other, WORDS)


def test_a_key_that_has_no_secret_replaces_nothing(made: SimpleNamespace, copy: Path) -> None:
    with _opened(copy, made) as vault:
        with pytest.raises(ParameterError, match="no secret key"):
            vault.new_custody(plan_head(4, 2, scheme="plain"))
        assert vault.public() == made.public


def test_a_backup_is_restored_whole_and_over_nothing(made: SimpleNamespace, copy: Path, tmp_path: Path) -> None:
    backup, folder = tmp_path / "backup.tar", tmp_path / "deep" / "restored"
    with _opened(copy, made) as vault:
        vault.backup(backup)
        with pytest.raises(VaultError, match=r"cannot write the backup .*File exists"):
            vault.backup(backup)
    Vault.restore(backup, folder)
    for name in VAULT_FILES:
        assert (folder / name).read_bytes() == (copy / name).read_bytes()
        assert int((folder / name).stat().st_mtime) == int((copy / name).stat().st_mtime)
    with Vault.open(folder, WORDS) as vault:
        assert vault.public() == made.public
    for taken in (folder, copy / KEY, tmp_path):
        with pytest.raises(VaultError, match="is there already"):
            Vault.restore(backup, taken)


def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    def tar(*names: str, kind: bytes = tarfile.REGTYPE) -> bytes:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.type = kind
                archive.addfile(entry)
        return data.getvalue()

    file, folder = tmp_path / "file", tmp_path / "vault"
    cases = (
        b"",
        b"no tar",
        tar(KEY),
        tar(IDENTITY, "../evil"),
        tar(IDENTITY, kind=tarfile.SYMTYPE),
        tar(*[IDENTITY] * 2),
    )
    for data in cases:
        file.write_bytes(data)
        with pytest.raises(VaultError, match="is no backup of a vault"):
            Vault.restore(file, folder)
    with pytest.raises(VaultError, match=r"cannot read the backup .*No such file"):
        Vault.restore(tmp_path / "nowhere", folder)
    assert list(tmp_path.iterdir()) == [file]


def test_a_key_holder_rotates_through_its_vault(made: SimpleNamespace, copy: Path) -> None:
    with _opened(copy, made) as vault:
        holder = KeyHolder("hospital", PLAN, keys=vault.new_custody, custody=vault.custody())
        assert holder.fingerprint == made.public.fingerprint
        holder.handle(Envelope("hospital", "laboratory", "key-holder", 1, 0, p.RotateKey()))
        vault.save_state(holder.state())
    with _opened(copy, made) as vault:
        again = KeyHolder("hospital", PLAN, keys=vault.new_custody, custody=vault.custody())
        kept = vault.state()
    assert kept is not None
    again.restore(kept)
    assert again.fingerprint == holder.fingerprint != made.public.fingerprint
    # A disk that takes no key leaves the old one in use: the vault is closed by now.
    (refused,) = again.handle(Envelope("hospital", "laboratory", "key-holder", 1, 0, p.RotateKey()))
    assert isinstance(refused.payload, p.Failure)
    assert "it is not used" in refused.payload.text or "cannot" in refused.payload.text
    assert again.fingerprint == holder.fingerprint


# ---- passphrases ---------------------------------------------------------------------------------------------------


def test_a_passphrase_comes_from_file_then_environment_then_keyring_then_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "words"
    file.write_text("from the file, one line\nand another\n")
    file.chmod(0o600)
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "from the terminal"

    ring, errors = ModuleType("keyring"), ModuleType("keyring.errors")
    kept = {("rhe_parties", "/vault"): "from the keyring"}
    ring.get_password = lambda service, name: kept.get((service, name))  # type: ignore[attr-defined]
    errors.KeyringError = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", ring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", ask)
    monkeypatch.setenv("RHE_PASSPHRASE", "from the environment")
    assert find_passphrase("vault", file, keyring_name="/vault") == "from the file, one line"
    assert find_passphrase("vault", keyring_name="/vault") == "from the environment"
    assert find_passphrase("vault", variable="", keyring_name="/vault") == "from the keyring"
    monkeypatch.delenv("RHE_PASSPHRASE")
    assert find_passphrase("vault", keyring_name="/vault") == "from the keyring"
    assert not asked
    assert find_passphrase("vault", keyring_name="/other") == "from the terminal"
    assert find_passphrase("vault", new=True) == "from the terminal"
    assert asked == ["Passphrase of vault: ", "New passphrase of vault: ", "Once more: "]
    ring.get_password = lambda service, name: (_ for _ in ()).throw(RuntimeError("locked"))  # type: ignore[attr-defined]
    assert find_passphrase("vault", keyring_name="/vault") == "from the terminal"
    monkeypatch.setitem(sys.modules, "keyring", None)  # not installed
    assert find_passphrase("vault", keyring_name="/vault") == "from the terminal"


def test_weak_or_public_passphrases_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "words"
    file.write_text("short")
    file.chmod(0o600)
    assert find_passphrase("vault", file) == "short"
    with pytest.raises(VaultError, match="has 5 characters; a new one needs 12 or more"):
        find_passphrase("vault", file, new=True)
    file.chmod(0o644)
    with pytest.raises(VaultError, match=r"words' is of mode 0644, wanted is 0600 or 0400"):
        find_passphrase("vault", file)
    file.chmod(0o400)
    file.unlink()
    with pytest.raises(VaultError, match=r"cannot read the passphrase file .*No such file"):
        find_passphrase("vault", file)
    monkeypatch.setenv("RHE_PASSPHRASE", "")
    with pytest.raises(VaultError, match="the passphrase in RHE_PASSPHRASE is empty"):
        find_passphrase("vault")
    monkeypatch.delenv("RHE_PASSPHRASE")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(VaultError, match="give a passphrase file or RHE_PASSPHRASE; there is no terminal"):
        find_passphrase("vault")
    answers = iter(["one long passphrase", "another long one"])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    with pytest.raises(VaultError, match="the two passphrases differ"):
        find_passphrase("vault", new=True)


# ---- command line --------------------------------------------------------------------------------------------------


class QuickPassphrases:
    """Stands in for `pyrage.passphrase` where it is the commands that are tested: scrypt takes a second each time."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[bytes, str]] = {}

    def encrypt(self, data: bytes, passphrase: str) -> bytes:
        number = f"file {len(self._kept)}".encode()
        self._kept[number] = data, passphrase
        return number

    def decrypt(self, number: bytes, passphrase: str) -> bytes:
        data, expected = self._kept[number]
        if passphrase != expected:
            raise pyrage.DecryptError("Decryption failed")
        return data


def _rhe(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code, and what was printed to either stream."""
    with pytest.raises(SystemExit) as stop:
        main(["keys", *map(str, arguments)])
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out + printed.err


def test_the_commands_make_show_rotate_back_up_and_restore(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyrage, "passphrase", QuickPassphrases())
    vault, words, new_words = tmp_path / "vault", tmp_path / "words", tmp_path / "new"
    for file, text in ((words, WORDS), (new_words, "another horse battery")):
        file.write_text(text)
        file.chmod(0o600)
    code, text = _rhe(capsys, "new", "--vault", vault, "--features", 4, "--classes", 2, "--passphrase-file", words)
    assert (code, text.startswith("Made key ")) == (0, True)
    first = text.split()[2]
    code, text = _rhe(capsys, "show", "--vault", vault)
    assert code == 0
    assert first in text
    assert "4 features → 3 classes" in text
    assert "not checked" in text
    monkeypatch.setenv("RHE_PASSPHRASE", WORDS)
    code, text = _rhe(capsys, "new", "--vault", vault, "--features", 4, "--classes", 2)
    assert (code, "holds a key already" in text) == (2, True)
    code, text = _rhe(capsys, "rotate", "--vault", vault)
    assert code == 0
    assert "Every encrypted head has to be encrypted and installed anew" in text
    second = text.split()[4]
    assert second != first
    backup, out = tmp_path / "backup.tar", tmp_path / "public.binpb"
    assert _rhe(capsys, "backup", backup, "--vault", vault)[0] == 0
    code, text = _rhe(capsys, "passphrase", "--vault", vault, "--new-passphrase-file", new_words)
    assert (code, "is changed" in text) == (0, True)
    code, text = _rhe(capsys, "export-public", "--vault", vault, "--out", out)
    assert (code, "the passphrase is not that of" in text) == (2, True)
    assert not out.exists()
    assert _rhe(capsys, "export-public", "--vault", vault, "--out", out, "--passphrase-file", new_words)[0] == 0
    assert import_public(out.read_bytes()).fingerprint == second
    code, text = _rhe(capsys, "restore", backup, "--vault", tmp_path / "restored")  # by the passphrase of then
    assert (code, f"key {second}" in text) == (0, True)
    code, text = _rhe(capsys, "show", "--vault", vault, "--check", "--json", "--passphrase-file", new_words)
    shown = json.loads(text)
    assert (shown["fingerprint"], shown["checked"], shown["plan"]["features"]) == (second, True, 4)
    assert {file["mode"] for file in shown["files"]} == {"0600"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "--features", "4", "--classes", "2", "--scheme", "plain"], "has no secret key"),
        (["new", "--features", "0", "--classes", "2"], "features 0 is not allowed"),
        (["show"], "is not a folder (No such file or directory)"),
        (["rotate"], "is not a folder (No such file or directory)"),
        (["restore", "nowhere.tar"], "cannot read the backup 'nowhere.tar'"),
    ],
)
def test_mistakes_cost_exit_code_2_one_line_and_no_vault(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("RHE_PASSPHRASE", WORDS)
    code, text = _rhe(capsys, *arguments, "--vault", tmp_path / "vault")
    assert code == 2
    assert message in text
    assert text.count("\n") == 1
    assert not (tmp_path / "vault").exists()
