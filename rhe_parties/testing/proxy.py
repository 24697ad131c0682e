"""A TCP proxy that stands for a bad network: it cuts, delays, throttles, and stops passing anything on."""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["Proxy"]

_AT_A_TIME = 16_384


class Proxy:
    """Between whoever dials `address` and the real server; an asynchronous context manager.

    Args:
        port: of the server, on this machine.
        listen: port to listen at; 0 takes a free one.

    Attributes:
        delay: seconds that bytes wait here, each way.
        bytes_per_second: that go each way; 0: as fast as they come.
        passing: while clear, nothing goes on to either side, and nobody is told.
        refusing: whether new connections are closed at once.
    """

    def __init__(self, port: int, listen: int = 0) -> None:
        self._target, self._listen = port, listen
        self.delay = 0.0
        self.bytes_per_second = 0
        self.passing = asyncio.Event()
        self.passing.set()
        self.refusing = False
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._listen)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._server is not None:
            self._server.close()
        await self.cut()

    @property
    def address(self) -> str:
        """What to dial."""
        if self._server is None:
            raise RuntimeError("the proxy is not open")
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        """Close every connection, in the middle of whatever goes over it."""
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        writers = [writer]
        try:
            if not self.refusing:
                onward, back = await asyncio.open_connection("127.0.0.1", self._target)
                writers.append(back)
                ways = asyncio.gather(self._pass(reader, back), self._pass(onward, writer))
                await ways
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for one in writers:
                one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(_AT_A_TIME)
            await self.passing.wait()
            if not data:
                break
            rate = self.bytes_per_second
            await asyncio.sleep(self.delay + (len(data) / rate if rate else 0.0))
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
