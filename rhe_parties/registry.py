"""Plug-ins by name: entry points of installed packages, or `path/to/file.py:ClassName`.

The package's own strategies and defences are registered in the same entry-point groups as anybody else's, so there is
one way to find them all. A plug-in from a file travels as source text, so that a run on a cluster needs no shared disk.
"""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from rhe_parties.errors import PluginError, unknown_name

__all__ = ["CatalogueEntry", "Registry", "carried_sources", "is_file_reference", "read_plugin_source"]

T = TypeVar("T")

# Texts of plug-ins that came with the work, for a machine that lacks their files.
_CARRIED: ContextVar[Mapping[str, str]] = ContextVar("carried plug-in sources", default=MappingProxyType({}))


@dataclass(frozen=True)
class CatalogueEntry:
    """One line of `rhe list`: `source` is the providing package, or the paper behind a built-in."""

    name: str
    summary: str
    source: str


def is_file_reference(name: str) -> bool:
    """Whether `name` has the form `path/to/file.py:ClassName`."""
    path, colon, attribute = name.rpartition(":")
    return bool(colon) and path.endswith(".py") and attribute.isidentifier()


@contextmanager
def carried_sources(sources: Mapping[str, str]) -> Iterator[None]:
    """Inside a `with` block, plug-ins are read from `sources` (text by file reference) before any file is sought."""
    token = _CARRIED.set(sources)
    try:
        yield
    finally:
        _CARRIED.reset(token)


def read_plugin_source(name: str) -> str:
    """The text behind a file reference, or "" for a registered name.

    Raises:
        PluginError: the file is missing or unreadable.
    """
    if not is_file_reference(name):
        return ""
    carried = _CARRIED.get().get(name)
    if carried is not None:
        return carried
    path = Path(name.rpartition(":")[0])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PluginError(f"cannot read plug-in {name!r}: {error}") from error


class Registry(Generic[T]):
    """All plug-ins of one kind.

    Args:
        kind: word for error messages, such as "adversary".
        group: entry-point group.
        base: class that every plug-in must derive from.
    """

    def __init__(self, kind: str, group: str, base: type[T]) -> None:
        self.kind = kind
        self.group = group
        self.base = base

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        found: dict[str, importlib.metadata.EntryPoint] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            held = found.get(point.name)
            if held is not None and held.value != point.value:
                raise PluginError(
                    f"{self.kind} {point.name!r} is declared twice: {held.value} and {point.value}; uninstall one"
                )
            found[point.name] = point
        return found

    def names(self) -> list[str]:
        """Registered names, sorted; nothing is imported."""
        return sorted(self._entry_points())

    def load(self, name: str, source: str = "") -> type[T]:
        """The class behind a registered name or a file reference (with its text in `source`, or read from disk).

        Raises:
            ParameterError: unknown name; the nearest one is suggested.
            PluginError: the plug-in raised on import, lacks the class, or the class is of another kind.
        """
        if is_file_reference(name):
            return self._from_source(name, source or read_plugin_source(name))
        point = self._entry_points().get(name)
        if point is None:
            raise unknown_name(self.kind, name, self.names())
        try:
            return self._checked(name, point.load())
        except PluginError:
            raise
        except Exception as error:
            raise self._broken(name, error) from error

    def catalogue(self) -> list[CatalogueEntry]:
        """Every registered plug-in; one that cannot be imported is listed with the reason."""
        entries = []
        for name, point in sorted(self._entry_points().items()):
            package = point.dist.name if point.dist is not None else "unknown"
            try:
                cls = self.load(name)
            except PluginError as error:
                entries.append(CatalogueEntry(name, f"cannot be used: {error}", package))
            else:
                own = package.replace("_", "-") == "rhe-parties"
                entries.append(
                    CatalogueEntry(name, getattr(cls, "summary", ""), getattr(cls, "source", "") if own else package)
                )
        return entries

    def _from_source(self, name: str, source: str) -> type[T]:
        path, _, attribute = name.rpartition(":")
        module = types.ModuleType(f"rhe_plugin_{Path(path).stem}")
        module.__file__ = path
        # Registered so that dataclasses and pickling inside the plug-in can find their module.
        sys.modules[module.__name__] = module
        folder = str(Path(path).resolve().parent)
        if folder not in sys.path:
            sys.path.append(folder)
        try:
            exec(compile(source, path, "exec"), module.__dict__)
        except Exception as error:
            raise self._broken(name, error) from error
        if not hasattr(module, attribute):
            classes = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
            raise PluginError(
                f"{self.kind} {name!r}: no class {attribute!r} in {path} (it defines: {', '.join(classes) or 'none'})"
            )
        return self._checked(name, getattr(module, attribute))

    def _checked(self, name: str, cls: Any) -> type[T]:
        if not isinstance(cls, type) or not issubclass(cls, self.base):
            raise PluginError(
                f"{self.kind} {name!r} is {cls!r}; a plug-in must be a class derived from "
                f"{self.base.__module__}.{self.base.__name__}"
            )
        return cls

    def _broken(self, name: str, error: Exception) -> PluginError:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return PluginError(f"{self.kind} {name!r} could not be imported: {reason}")
