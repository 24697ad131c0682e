"""A folder that nobody but its owner reads, and files in it that are replaced as a whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from rhe_parties.errors import VaultError

__all__ = ["FILE_MODE", "FOLDER_MODE", "PrivateFolder", "check_private", "write_new"]

FOLDER_MODE = 0o700
FILE_MODE = 0o600


class PrivateFolder:
    """An existing folder of mode 0700, held by this process alone until `close`.

    The lock is advisory: it keeps out those who ask for it.

    Args:
        path: of the folder.
        shared: for reading only, whoever else holds it.

    Raises:
        VaultError: not there, a symbolic link, of another user, of another mode, or held by another process.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        self.path = path
        try:
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            # The system answers either way for a link, according to its release.
            link = error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink()
            raise _refused(path, "a symbolic link" if link else f"not a folder ({error.strerror})") from None
        try:
            check_private(os.fstat(self._folder), path, FOLDER_MODE)
            if not shared:
                fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._folder)
            raise VaultError(f"{str(path)!r} is in use by another process; stop it first") from None
        except BaseException:
            os.close(self._folder)
            raise

    def close(self) -> None:
        """Let go of the folder; a second time does nothing."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, None where there is none.

        Raises:
            VaultError: it is a link, no ordinary file, of another user or of another mode than 0600.
        """
        path = self.path / name
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = "a symbolic link" if error.errno == errno.ELOOP else f"unreadable ({error.strerror})"
            raise _refused(path, reason) from None
        with open(file, "rb") as opened:
            check_private(os.fstat(opened.fileno()), path, FILE_MODE)
            return opened.read()

    def status(self, name: str) -> os.stat_result | None:
        """Mode, size and times of a file, unopened; None where there is none.

        Raises:
            VaultError: as `read`.
        """
        try:
            found = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        check_private(found, self.path / name, FILE_MODE)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Replace a file; when this returns the new bytes are on the disk, and if it raises the old ones may still be.

        Raises:
            VaultError: the disk is full, read-only or broken.
        """
        temporary = _temporary(name)
        try:
            self._unlink(temporary)
            write_new(temporary, data, self._folder)
            os.replace(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
        except OSError as error:
            raise VaultError(f"cannot write {str(self.path / name)!r}: {error.strerror or error}") from error

    def remove(self, *names: str) -> None:
        """Remove files, where they are, and what a crash left of writing them; on the disk when this returns.

        Raises:
            VaultError: the disk is read-only or broken.
        """
        try:
            for name in names:
                self._unlink(name)
                self._unlink(_temporary(name))
            os.fsync(self._folder)
        except OSError as error:
            raise VaultError(f"cannot remove files in {str(self.path)!r}: {error.strerror or error}") from error

    def tidy(self, *names: str) -> None:
        """Remove what a crash left of writing these files."""
        for name in names:
            self._unlink(_temporary(name))

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._folder)
        except FileNotFoundError:
            return


def write_new(path: str | Path, data: bytes, folder: int | None = None) -> None:
    """Write a file that is not there yet, of mode 0600, and wait until its bytes are on the disk.

    Args:
        path: of the file, below the open `folder` where one is given.
        data: its content.
        folder: descriptor of a folder.

    Raises:
        OSError: it is there, or the disk is full, read-only or broken.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, FILE_MODE, dir_fd=folder), "wb") as file:
        try:
            os.fchmod(file.fileno(), FILE_MODE)  # whatever the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(path, dir_fd=folder)
            raise


def check_private(found: os.stat_result, path: Path, wanted: int) -> None:
    """Refuse what is not this user's own, of exactly the wanted mode, and an ordinary file or folder.

    Raises:
        VaultError: names the path, what was found and what is wanted.
    """
    ordinary = stat.S_ISDIR if wanted == FOLDER_MODE else stat.S_ISREG
    if not ordinary(found.st_mode):
        raise _refused(path, "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no ordinary file")
    if found.st_uid != os.geteuid():
        raise _refused(path, f"of user {found.st_uid}, not of user {os.geteuid()} who runs this")
    mode = stat.S_IMODE(found.st_mode)
    if mode != wanted:
        raise _refused(path, f"of mode {mode:04o}, wanted is {wanted:04o}")


def _refused(path: Path, what: str) -> VaultError:
    return VaultError(f"{str(path)!r} is {what}; it is not used")


def _temporary(name: str) -> str:
    return f".{name}.new"
