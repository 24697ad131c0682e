"""Who may ask the key holder, for how many images, and how many were decided: counted before anything is decided."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from rhe_parties.errors import BudgetError, FailureCode, ProtocolError

__all__ = ["Budgets"]

MAX_CLIENTS = 256
# Answers that flooding is measured for where nothing limits them.
_UNLIMITED = 65_536


class Budgets:
    """Images decided, over the whole run and for each client and head.

    Args:
        whole: images decided over the whole run, 0 for no limit.
        max_clients: that may be admitted.
    """

    def __init__(self, whole: int, max_clients: int = MAX_CLIENTS) -> None:
        self._whole, self._max_clients = whole, max_clients
        self._clients: dict[str, int] = {}
        self._used: dict[tuple[str, str], int] = {}
        self.decided = 0

    @property
    def clients(self) -> tuple[str, ...]:
        """Who was admitted, besides the laboratory."""
        return tuple(self._clients)

    @property
    def most(self) -> int:
        """Answers that anybody can get at most."""
        return self._whole or max((n or _UNLIMITED for n in self._clients.values()), default=_UNLIMITED)

    def together(self) -> AbstractContextManager[object]:
        """Around what must be counted and marked as used as a whole or not at all; in memory nothing comes between."""
        return nullcontext()

    def admit(self, client: str, budget: int) -> None:
        """From now on `client` may have `budget` images of each head decided, 0 for no limit.

        Raises:
            ProtocolError: REFUSED where too many are admitted.
        """
        if client not in self._clients and len(self._clients) >= self._max_clients:
            raise ProtocolError(FailureCode.REFUSED, f"{self._max_clients} clients are admitted, no more are taken")
        self._clients[client] = budget

    def count(self, client: str, head_id: str, images: int) -> None:
        """Count images against the budgets.

        Raises:
            ProtocolError: REFUSED where the run's budget is used up; nothing is counted.
            BudgetError: the client has too few left for this head; nothing is counted.
        """
        if self._whole and self.decided + images > self._whole:
            raise ProtocolError(
                FailureCode.REFUSED,
                f"query budget: {self.decided} of {self._whole} images are decided, {images} more were asked for",
            )
        used, budget = self.used(client, head_id), self._clients.get(client, 0)
        if budget and used + images > budget:
            raise BudgetError(
                f"{used} of {budget} images of head {head_id[:64]!r} are decided for {client[:64]!r}, "
                f"{images} more were asked for"
            )
        self._used[client, head_id] = used + images
        self.decided += images

    def used(self, client: str, head_id: str) -> int:
        """Images of a head decided for a client so far."""
        return self._used.get((client, head_id), 0)
