"""A TLS terminating proxy before a server, as a reverse proxy with a private CA would be."""

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import trustme

_BLOCK_BYTES = 65536


class Authority:
    """A private CA, and what it signed, as files in a folder."""

    def __init__(self, folder: Path, name: str = "private") -> None:
        """Make the CA."""
        self.ca = trustme.CA(organization_name=name)
        self.bundle = folder / f"{name}-ca.pem"
        self.ca.cert_pem.write_to_path(str(self.bundle))
        self._folder = folder

    def client_cert(self, name: str = "standby") -> Path:
        """Return a file with a certificate and its key that nobody else may read."""
        path = self._folder / f"{name}-{self.bundle.stem}.pem"
        leaf = self.ca.issue_cert(f"{name}@example.com")
        path.touch(0o600)
        path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        return path


class TlsProxy:
    """Accepts TLS on a free port of 127.0.0.1, and passes on what is in it; a context manager that ends it.

    host: the name that its certificate has.
    clients: the CA whose certificates clients must show; None where they need none.
    """

    def __init__(
        self,
        target_url: str,
        authority: Authority,
        *,
        host: str = "127.0.0.1",
        clients: Authority | None = None,
    ) -> None:
        """Describe the proxy; it runs as a context manager."""
        self._target = ("127.0.0.1", urlsplit(target_url).port or 80)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.ca.issue_cert(host).configure_cert(self._context)
        if clients is not None:
            clients.ca.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.served = 0

    def __enter__(self) -> "TlsProxy":
        """Begin to accept."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close everything."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            with self._context.wrap_socket(raw, server_side=True) as client:
                server = socket.create_connection(self._target)
                self._open += [client, server]
                self.served += 1
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
                server.close()
        except OSError:
            raw.close()  # it did not like our certificate, or we not its


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes until there is no more."""
    with suppress(OSError, ValueError):
        while block := source.recv(_BLOCK_BYTES):
            sink.sendall(block)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
