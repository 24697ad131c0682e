"""Budgets and used request ids that a ledger keeps: whatever becomes of the process, nothing is given out twice."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager

from rhe_parties.parties.budgets import MAX_CLIENTS, Budgets
from rhe_parties.parties.recent import id_hash
from rhe_parties.service.ledger import Ledger

__all__ = ["DurableBudgets", "DurableIds"]


class DurableBudgets(Budgets):
    """`Budgets` that go on from what was decided before, and from the clients admitted before.

    Args:
        ledger: where they are kept.
        whole: images decided over the deployment's whole life, 0 for no limit.
        max_clients: that may be admitted.
    """

    def __init__(self, ledger: Ledger, whole: int = 0, max_clients: int = MAX_CLIENTS) -> None:
        super().__init__(whole, max_clients)
        self._ledger = ledger
        with ledger.transaction() as connection:
            self._clients = dict(connection.execute("SELECT client, budget FROM clients"))
            rows = connection.execute("SELECT client, head_id, images FROM decided").fetchall()
        self._used = {(client, head_id): images for client, head_id, images in rows}
        self.decided = sum(self._used.values())

    def together(self) -> AbstractContextManager[object]:
        """One transaction of the ledger."""
        return self._ledger.transaction()

    def admit(self, client: str, budget: int) -> None:
        """See `Budgets.admit`.

        Raises:
            ProtocolError: REFUSED, also where the ledger cannot be written.
        """
        with self._ledger.transaction() as connection:
            before = self._clients.get(client)
            super().admit(client, budget)
            self._ledger.if_undone(lambda: self._admit_again(client, before))
            connection.execute("INSERT OR REPLACE INTO clients VALUES (?, ?)", (client, budget))

    def dismiss_others(self, clients: Collection[str]) -> None:
        """Only these of the clients admitted before are so still; what the others had decided stays counted."""
        with self._ledger.transaction() as connection:
            for client in [client for client in self._clients if client not in clients]:
                del self._clients[client]
                connection.execute("DELETE FROM clients WHERE client = ?", (client,))

    def _admit_again(self, client: str, before: int | None) -> None:
        if before is None:
            del self._clients[client]
        else:
            self._clients[client] = before

    def count(self, client: str, head_id: str, images: int) -> None:
        """See `Budgets.count`.

        Raises:
            ProtocolError: REFUSED, also where the ledger cannot be written.
        """
        with self._ledger.transaction() as connection:
            super().count(client, head_id, images)
            self._ledger.if_undone(lambda: self._give_back(client, head_id, images))
            used = self.used(client, head_id)
            connection.execute("INSERT OR REPLACE INTO decided VALUES (?, ?, ?)", (client, head_id, used))

    def _give_back(self, client: str, head_id: str, images: int) -> None:
        self._used[client, head_id] -= images
        self.decided -= images


class DurableIds:
    """`rhe_parties.parties.recent.UsedIds` for good: a ledger keeps a hash of 16 bytes of each.

    Nothing is kept in memory beside SQLite's own pages: an id is nearly always a new one, and that one is new only the
    whole index can tell.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        with ledger.transaction() as connection:
            self._count: int
            (self._count,) = connection.execute("SELECT count(*) FROM used_ids").fetchone()

    def add(self, text: str) -> None:
        """Remember a text.

        Raises:
            ProtocolError: REFUSED where the ledger cannot be written.
        """
        with self._ledger.transaction() as connection:
            added = connection.execute("INSERT OR IGNORE INTO used_ids VALUES (?)", (id_hash(text),)).rowcount
            self._count += added
            self._ledger.if_undone(lambda: self._forget(added))

    def _forget(self, added: int) -> None:
        self._count -= added

    def __contains__(self, text: str) -> bool:
        return self._ledger.holds("SELECT 1 FROM used_ids WHERE id = ?", id_hash(text))

    def __len__(self) -> int:
        return self._count
