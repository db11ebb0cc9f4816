"""The service of one translator: its address, its threads, and its end."""

import ipaddress
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from experiments.serving.application import application, failed
from experiments.serving.batching import Batcher
from experiments.translator import Translator, log_to_stderr
from transformer.config import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
"""Names of this machine for itself."""


class Service:
    """Translates over HTTP. It can be reached from when it is made; `run` answers."""

    def __init__(
        self,
        translator: Translator,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        wait: float = 0.01,
        max_queue: int = 1024,
        max_sentences: int = 64,
        longest: int = 32,
    ):
        """Takes the address. UserError if it cannot be had.

        Args:
            translator: what translates; `run` does not change it.
            name: of the model, for clients.
            port: 0 is any free one.
            wait: how many seconds a request waits for others while the model has nothing to do.
            max_queue: most sentences that may wait.
            max_sentences: most sentences in a request.
            longest: compile, before answering, for sentences of up to this many tokens.
        """
        self.batcher, self.longest = Batcher(translator, wait, max_queue), longest
        self.socket = listen(host, port)
        found, number = self.socket.getsockname()[:2]
        self.address = f"http://{f'[{found}]' if ':' in found else found}:{number}"
        hosts = (*LOOPBACK, host.lower(), found) if ipaddress.ip_address(found).is_loopback else ("*",)
        described = {"model": name, "experiment": translator.experiment.name, "steps": translator.steps}
        self.server = uvicorn.Server(
            uvicorn.Config(
                application(self.batcher, described, max_sentences, hosts),
                loop="asyncio",
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )

    def run(self) -> None:
        """Serves until SIGINT, SIGTERM or `stop`; then answers what was accepted, and returns.

        Raises:
            KeyboardInterrupt: a second SIGINT; what was accepted is dropped, but the thread may still translate.
        """
        thread = threading.Thread(target=self.translate, name="translate", daemon=True)
        thread.start()
        try:
            with signals_ignored():  # outside of the server, which has handlers of its own
                self.server.run(sockets=[self.socket])
        finally:
            self.batcher.stop()
            if self.server.force_exit:
                raise KeyboardInterrupt
            thread.join()
        if self.batcher.failure:
            raise self.batcher.failure

    def stop(self) -> None:
        """Makes `run` return, from any thread."""
        self.server.should_exit = True

    def translate(self) -> None:
        """What the thread that translates does."""
        count = len(self.batcher.shapes(self.longest))
        log_to_stderr(f"compiling {count} programs, for sentences of up to {self.longest} tokens")
        start = time.monotonic()
        self.batcher.run(
            self.longest,
            lambda: print(f"ready after {time.monotonic() - start:.1f} seconds: {self.address}", flush=True),
        )
        self.stop()


class Protocol(H11Protocol):
    """HTTP/1.1 by uvicorn, with JSON for a request that is no HTTP and never reaches the application."""

    def send_400_response(self, msg: str) -> None:
        """Answers, and closes the connection, since nobody knows where the next request begins."""
        body = bytes(failed(400, msg).body)
        head = "HTTP/1.1 400 Bad Request", "Content-Type: application/json", "Connection: close"
        self.transport.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at an address. UserError if there is no such address, or it is taken."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((address[0], port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"cannot listen at {host} port {port} ({error}): choose another --host or --port") from error


@contextmanager
def signals_ignored() -> Iterator[Any]:
    """Ignores SIGINT and SIGTERM inside, in the main thread: uvicorn raises those that ended it once more."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
