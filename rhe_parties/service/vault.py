"""The key holder's folder: its key and its state between two runs, on the disk only encrypted.

    identity.age    an age X25519 identity, encrypted with a passphrase (scrypt)
    key.age         the current key, sealed to that identity (`rhe_parties.he.sealed`)
    state.age       the key holder's state, encrypted to that identity: it holds secret scales and tags of heads
    public.binpb    the public material of that key, in the clear (`rhe_parties.messages.public`)

All of it through `pyrage`, in the age format (age-encryption.org/v1): the `age` tool opens the files, too.

What this does not do: whoever can write to the folder can put an older copy of a file back, and nothing here shows it.
Whoever has the passphrase and an older copy of `identity.age` and `key.age` (a backup, a snapshot, blocks that the disk
has not reused) has the older key: replacing a file destroys its content only as far as file system and disk do. The
same goes for a passphrase that was changed.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyrage

from rhe_parties.errors import ProtocolError, SchemeError, VaultError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.scheme import KeyCustody, NoCopies, PublicMaterial
from rhe_parties.he.sealed import sealed_custody, unsealed_custody
from rhe_parties.messages.public import export_public, import_public
from rhe_parties.service.private_files import FOLDER_MODE, PrivateFolder, write_new

__all__ = ["IDENTITY", "KEY", "PUBLIC", "STATE", "VAULT_FILES", "Vault", "VaultFile", "look_into"]

IDENTITY, KEY, STATE, PUBLIC = VAULT_FILES = ("identity.age", "key.age", "state.age", "public.binpb")
# What `pyrage` says of a passphrase that does not fit, and of nothing else but damage of the line that it fits to.
_WRONG = "Decryption failed"


@dataclass(frozen=True)
class VaultFile:
    """A file of a vault: its name, its size in bytes, its mode, and when it was written (seconds since 1970)."""

    name: str
    size: int
    mode: int
    written: float


class Vault(NoCopies):
    """An open vault; no other process can open it until `close`, or the end of a `with` block.

    Made by `create` or `open`. Not for several threads at once.
    """

    __slots__ = ("__identity", "_files")

    def __init__(self, files: PrivateFolder, identity: pyrage.x25519.Identity) -> None:
        self._files = files
        self.__identity = identity

    def __repr__(self) -> str:
        return f"Vault({str(self.folder)!r})"

    @classmethod
    def create(cls, folder: Path, passphrase: str) -> Vault:
        """A new vault without a key, in a folder that is made, or is there and empty.

        Raises:
            VaultError: the folder is not empty or not private, or cannot be written.
        """
        try:
            folder.mkdir(mode=FOLDER_MODE, parents=True)
            folder.chmod(FOLDER_MODE)  # whatever the umask
            _sync_folder(folder.absolute().parent)
        except FileExistsError:
            pass
        except OSError as error:
            raise VaultError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error
        files = PrivateFolder(folder)
        try:
            files.tidy(*VAULT_FILES)
            held = sorted(path.name for path in folder.iterdir())
            if held:
                what = "is a vault already" if IDENTITY in held else f"is not empty (it holds {held[0]!r})"
                raise VaultError(f"{str(folder)!r} {what}; a new vault needs a folder of its own")
            identity = pyrage.x25519.Identity.generate()
            vault = cls(files, identity)
            vault.change_passphrase(passphrase)
        except BaseException:
            files.close()
            raise
        return vault

    @classmethod
    def open(cls, folder: Path, passphrase: str) -> Vault:
        """The vault in `folder`; takes about a second, which is what a guess at the passphrase costs.

        Raises:
            VaultError: there is no vault, it is in use, a file is damaged or open to others, or the passphrase is
                wrong.
        """
        files = PrivateFolder(folder)
        try:
            files.tidy(*VAULT_FILES)
            for name in VAULT_FILES:
                files.status(name)
            data = files.read(IDENTITY)
            if data is None:
                raise _no_vault(folder)
            return cls(files, _identity(data, passphrase, folder / IDENTITY))
        except BaseException:
            files.close()
            raise

    def close(self) -> None:
        """Let another process open it."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._files.path

    # ---- keys --------------------------------------------------------------------------------------------------

    def new_custody(self, plan: HeadPlan, noise_check: bool = True) -> KeyCustody:
        """Fresh keys for the plan, in place of those that the vault held; on the disk when this returns.

        A crash in between leaves the old key or the new one. The old one is not kept, so that what was encrypted for it
        cannot be read any more, as far as the disk forgets what was overwritten; see the module.

        Raises:
            ParameterError: see `rhe_parties.he.sealed.sealed_custody`.
            VaultError: the disk is full, read-only or broken.
        """
        custody, data = sealed_custody(plan, self.__identity.to_public(), noise_check)
        # Public material of another key than the one beside it must never be found, so the old goes first.
        self._files.remove(PUBLIC)
        self._files.write(KEY, data)
        # From here on the new key is the vault's: to fail would leave its user with one that is gone. `public` writes
        # what is missing.
        with contextlib.suppress(VaultError):
            self._files.write(PUBLIC, export_public(custody.public))
        return custody

    def custody(self, noise_check: bool = True) -> KeyCustody | None:
        """The key that the vault holds, None where it holds none.

        Raises:
            ParameterError: the scheme has no noise check that could be left out.
            VaultError: the file is damaged or of another vault.
        """
        data = self._files.read(KEY)
        if data is None:
            return None
        try:
            return unsealed_custody(data, self.__identity, noise_check)
        except SchemeError as error:
            raise VaultError(f"{str(self.folder / KEY)!r} is damaged or of another vault: {error.text}") from None

    def public(self) -> PublicMaterial | None:
        """The public material of the key, as it is inside its seal; None where there is no key.

        Raises:
            VaultError: a file is damaged, or the public material beside the key is of another one.
        """
        custody = self.custody()
        if custody is None:
            return None
        expected, found = export_public(custody.public), self._files.read(PUBLIC)
        if found is None:  # a crash came before it was written
            self._files.write(PUBLIC, expected)
        elif found != expected:
            raise VaultError(f"{str(self.folder / PUBLIC)!r} is not that of {KEY}: somebody changed it; remove it")
        return custody.public

    # ---- state and passphrase ----------------------------------------------------------------------------------

    def save_state(self, state: bytes) -> None:
        """Keep the key holder's state in place of an earlier one; on the disk, encrypted, when this returns.

        Raises:
            VaultError: the disk is full, read-only or broken.
        """
        self._files.write(STATE, pyrage.encrypt(state, [self.__identity.to_public()]))

    def state(self) -> bytes | None:
        """What `save_state` kept, None before the first.

        Raises:
            VaultError: the file is damaged or of another vault.
        """
        data = self._files.read(STATE)
        if data is None:
            return None
        try:
            state: bytes = pyrage.decrypt(data, [self.__identity])
        except pyrage.DecryptError as error:
            raise VaultError(f"{str(self.folder / STATE)!r} is damaged or of another vault: {error}") from None
        return state

    def change_passphrase(self, new: str) -> None:
        """From now on `new` opens the vault; older copies of its files still open by the older passphrase.

        Raises:
            VaultError: the disk is full, read-only or broken.
        """
        self._files.write(IDENTITY, pyrage.passphrase.encrypt(f"{self.__identity}\n".encode(), new))

    # ---- backup ------------------------------------------------------------------------------------------------

    def backup(self, target: Path) -> None:
        """Write one new file, a tar of the vault's files as they are: what is encrypted there is encrypted here.

        It opens by today's passphrase for ever, and holds today's key for ever.

        Raises:
            VaultError: the file is there already, or cannot be written.
        """
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in VAULT_FILES:
                data, status = self._files.read(name), self._files.status(name)
                if data is not None and status is not None:
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(status.st_mtime)
                    tar.addfile(entry, io.BytesIO(data))
        try:
            write_new(target, archive.getvalue())
            _sync_folder(target.parent)
        except OSError as error:
            raise VaultError(f"cannot write the backup {str(target)!r}: {error.strerror}") from error

    @staticmethod
    def restore(file: Path, folder: Path) -> None:
        """Unpack what `backup` wrote into a folder that is not there yet, or empty; whole or not at all.

        Raises:
            VaultError: the folder holds something, the file is no backup, or the folder cannot be written.
        """
        files = _archived(file)
        try:
            if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
                raise VaultError(f"{str(folder)!r} is there already; a backup is restored into a folder of its own")
            folder.parent.mkdir(parents=True, exist_ok=True)
            staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                for entry, data in files:
                    write_new(staged / entry.name, data)
                    os.utime(staged / entry.name, (entry.mtime, entry.mtime))
                _sync_folder(staged)
                staged.rename(folder)
            except BaseException:
                shutil.rmtree(staged)
                raise
            _sync_folder(folder.parent)
        except OSError as error:
            raise VaultError(f"cannot restore into {str(folder)!r}: {error.strerror}") from error


def _archived(file: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The files of a backup; nothing else than a vault's own files may be in it."""
    found = []
    try:
        with tarfile.open(file, mode="r:") as tar:
            for entry in tar:
                opened = tar.extractfile(entry) if entry.isreg() else None
                if opened is None or entry.name not in VAULT_FILES:
                    raise VaultError(f"{str(file)!r} is no backup of a vault: it holds {entry.name[:64]!r}")
                found.append((entry, opened.read()))
    except OSError as error:
        raise VaultError(f"cannot read the backup {str(file)!r}: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise VaultError(f"{str(file)!r} is no backup of a vault: {error}") from error
    names = [entry.name for entry, _ in found]
    if IDENTITY not in names or len(set(names)) != len(names):
        raise VaultError(f"{str(file)!r} is no backup of a vault: it holds {', '.join(names) or 'nothing'}")
    return found


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def look_into(folder: Path) -> tuple[list[VaultFile], PublicMaterial | None]:
    """What a vault shows without its passphrase, whoever has it open: its files, and its public material.

    There is none where there is no key, and for the moment in which the key is replaced. That it belongs to the key is
    seen with the passphrase only (`Vault.public`).

    Raises:
        VaultError: there is no vault, or a file is damaged or open to others.
    """
    files = PrivateFolder(folder, shared=True)
    try:
        found = {name: files.status(name) for name in VAULT_FILES}
        if found[IDENTITY] is None:
            raise _no_vault(folder)
        data = files.read(PUBLIC)
    finally:
        files.close()
    listed = [VaultFile(n, s.st_size, stat.S_IMODE(s.st_mode), s.st_mtime) for n, s in found.items() if s is not None]
    return listed, None if data is None else _public(data, folder / PUBLIC)


def _no_vault(folder: Path) -> VaultError:
    return VaultError(f"{str(folder)!r} is no vault: it holds no {IDENTITY}")


def _public(data: bytes, path: Path) -> PublicMaterial:
    try:
        return import_public(data)
    except ProtocolError as error:
        raise VaultError(f"{str(path)!r} is damaged: {error.text}") from None


def _identity(data: bytes, passphrase: str, path: Path) -> pyrage.x25519.Identity:
    try:
        text = pyrage.passphrase.decrypt(data, passphrase).decode().strip()
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.DecryptError as error:
        reason = " ".join(str(error).split())
        if reason == _WRONG:
            raise VaultError(f"the passphrase is not that of {str(path)!r}") from None
        raise VaultError(f"{str(path)!r} cannot be opened: it is damaged ({reason})") from None
    except (UnicodeDecodeError, pyrage.IdentityError):
        raise VaultError(f"{str(path)!r} holds no age identity") from None
