"""Where a passphrase comes from: a file, the environment, the system's keyring, or the person at the terminal.

In this order; the first that has one is used, and never more than that one.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from pathlib import Path

from rhe_parties.errors import VaultError

__all__ = ["KEYRING_SERVICE", "LEAST_CHARACTERS", "VARIABLE", "find_passphrase"]

VARIABLE = "RHE_PASSPHRASE"
#: Name under which `keyring set rhe_parties NAME` puts it.
KEYRING_SERVICE = "rhe_parties"
LEAST_CHARACTERS = 12


def find_passphrase(
    what: str, file: Path | None = None, new: bool = False, variable: str = VARIABLE, keyring_name: str = ""
) -> str:
    """The passphrase of `what`.

    Args:
        what: named when it is asked for, such as a folder.
        file: holds it in its first line; readable by its owner alone.
        new: it is to be set: asked for twice, and refused where it is too short.
        variable: of the environment; "" for none.
        keyring_name: of its entry in the system's keyring, where package `keyring` is installed; "" for none.

    Raises:
        VaultError: the file is missing or open to others, there is nobody to ask, the two differ, or it is too short.
    """
    if file is not None:
        found, source = _from_file(file), f"in {str(file)!r}"
    elif variable and variable in os.environ:
        found, source = os.environ[variable], f"in {variable}"
    elif kept := _from_keyring(keyring_name):
        found, source = kept, "in the keyring"
    else:
        found, source = _from_terminal(what, new, variable), "given"
    if not found:
        raise VaultError(f"the passphrase {source} is empty")
    if new and len(found) < LEAST_CHARACTERS:
        raise VaultError(
            f"the passphrase {source} has {len(found)} characters; a new one needs {LEAST_CHARACTERS} or more"
        )
    return found


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise VaultError(f"passphrase file {str(path)!r} is no ordinary file")
            # Root writes such files for services; any other user's would be that user's to choose.
            if found.st_uid not in (os.geteuid(), 0):
                raise VaultError(f"passphrase file {str(path)!r} is of user {found.st_uid}, not of user {os.geteuid()}")
            if found.st_mode & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise VaultError(f"passphrase file {str(path)!r} is of mode {mode:04o}, wanted is 0600 or 0400")
            lines = file.read().decode().splitlines()
    except OSError as error:
        raise VaultError(f"cannot read the passphrase file {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise VaultError(f"passphrase file {str(path)!r} is no text") from None
    return lines[0] if lines else ""


def _from_keyring(name: str) -> str | None:
    if not name:
        return None
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return None
    try:
        kept: str | None = keyring.get_password(KEYRING_SERVICE, name)
    except KeyringError:  # locked, or a machine without one: as though it held nothing
        return None
    return kept


def _from_terminal(what: str, new: bool, variable: str) -> str:
    if not sys.stdin.isatty():
        ways = f"a passphrase file or {variable}" if variable else "a passphrase file"
        raise VaultError(f"no passphrase for {what}: give {ways}; there is no terminal to ask at")
    found = getpass.getpass(f"{'New passphrase' if new else 'Passphrase'} of {what}: ")
    if new and getpass.getpass("Once more: ") != found:
        raise VaultError("the two passphrases differ")
    return found
