"""One server over HTTP: requests with our token, and the meaning of answers to any request.

Translates all of httpx's errors; no module above this one sees one.
"""

import errno
import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import NoReturn
from urllib.parse import quote

import httpx

from replisync import __version__
from replisync.changelog.ports import Hello
from replisync.devpi.tokens import TokenSigner
from replisync.devpi.wire import Limits
from replisync.errors import (
    Advice,
    BrokenStream,
    Hint,
    LocalFailure,
    NewerPrimary,
    NotThePrimary,
    PrimaryRefused,
    PrimaryTimeout,
    PrimaryUnreachable,
    ReplisyncError,
    UsageError,
    WrongHistory,
)
from replisync.primary.tls import usual_trust
from replisync.primary.transport import HandshakeTimeout, Transport

# The primary answers a poll after 30 seconds at the latest; devpi's own replica waits a quarter longer.
POLL_SECONDS = 37.5
_CONNECT_SECONDS = 10.0

# OpenSSL's errors about a certificate that do not concern its CA: not yet valid, expired, another name or
# address (`X509_V_ERR_..` in openssl/x509_vfy.h).
_OF_ITS_OWN = (9, 10, 62, 64)

# devpi's UUIDs are 32 hex digits. Any other text must be safe in our headers, tables and messages.
_UUID = re.compile("[!-~]{1,64}")
# An empty server says -1.
_SERIAL = re.compile("-1|[0-9]{1,10}")
# The limit of a serial in devpi's value format, and in its PostgreSQL tables.
_SERIAL_MAX = 2**31 - 1

# devpi-server 4 to 6 have one changelog format, 7 has another. Each answer names the version.
_VERSION = re.compile(r"([0-9]{1,4})(?:\.[0-9A-Za-z.+-]{1,40})?")
_NEWEST = 6
_READS = "this replisync reads the changelogs of devpi-server 4 to 6"

# The number of bytes of a failure's body that are read.
_TEXT_BYTES = 16384

# Characters of a page that are not shown, and the length of what is shown.
_MARKUP = re.compile("<(script|style).*?</\\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_SHOWN = 80

_USER_AGENT = f"devpi-replisync/{__version__}"

# Names that do not exist, as long as the name servers say so; not their own troubles.
_NO_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)

# OpenSSL's reasons for an answer in plain text (openssl/sslerr.h).
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "RECORD_LAYER_FAILURE")

_PLAIN = "if the server has no TLS at this port, give --primary-url with http://"

_NO_ROUTE_HINT = "a proxy before the primary may block /+changelog: let it through for this host"


_NOT_AN_INDEX = "give the URL of the server, not of an index: "


@dataclass(frozen=True, slots=True)
class Link:
    """The settings of a connection.

    limits: of the changelog.
    silence: seconds without a byte after which to give up on the server; a poll always has the time that the
        protocol allows.
    context: trusted CAs, and our certificate; None for the default trust.
    transport: carries the requests; None for our own.
    """

    limits: Limits = field(default_factory=Limits)
    silence: float = POLL_SECONDS
    context: ssl.SSLContext | None = None
    transport: httpx.BaseTransport | None = None


class Origin:
    """One server, as one replica sees it.

    url: of the server's root.
    signer: makes the tokens; None if no changelog is to be read.
    uuid: the replica's.
    expected: the UUID that the server must have; "" if unknown.
    """

    def __init__(
        self,
        url: str,
        signer: TokenSigner | None,
        *,
        uuid: str,
        expected: str,
        link: Link,
    ) -> None:
        self.url = normalized_url(url)
        self._root = httpx.URL(self.url)
        context = link.context
        if context is None and self._root.scheme == "https" and link.transport is None:
            context = usual_trust()  # takes longer to load than most answers
        self.uuid = uuid
        self.expected = expected
        self.last_seen = -1  # the server's serial by its last answer
        self.disconnected = True  # whether the connection of the last answer is closed after it
        self.before_6_13 = False  # also by its last answer
        self._signer = signer
        self._searching = threading.Lock()  # held by the one thread that tries clock offsets
        self._connections: deque[object] = deque(maxlen=8)  # those that answered since the last error
        self._timeout = httpx.Timeout(link.silence, connect=min(link.silence, _CONNECT_SECONDS))
        # The environment (proxies, .netrc) must not decide to whom the token goes.
        self._transport = link.transport or Transport(context)
        self._client = httpx.Client(
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
            timeout=self._timeout,
            follow_redirects=False,
            transport=self._transport,
            trust_env=False,
        )
        # Connections of their own: over one that only files came by, nothing is known of who answers.
        self._files = link.transport or Transport(context)
        self._file_headers: tuple[str, httpx.Headers] = ("", httpx.Headers())

    def close(self) -> None:
        """Close all connections."""
        self._files.close()
        self._client.close()

    def is_new(self, response: httpx.Response) -> bool:
        """Return whether an answer came over a connection that has not answered since the last error."""
        self.disconnected = response.headers.get("connection", "").lower() == "close"
        stream = response.extensions.get("network_stream")
        known = any(stream is one for one in self._connections)
        if not known:
            self._connections.append(stream)
        return stream is None or not known

    def distrust(self) -> None:
        """Treat every connection as new from now on."""
        self._connections.clear()

    # Requests.

    @contextmanager
    def get(
        self, path: str, attempted: str, headers: dict[str, str], *, poll: bool = False
    ) -> Iterator[httpx.Response]:
        """Send a request without a token; hold the answer until the context ends.

        path: relative to the root.
        poll: whether the answer may take as long as a poll.
        Raises the errors of `translated`.
        """
        # The stack unwinds outside of the translation of the opening, so that errors of the caller that reads
        # the answer are not translated.
        with ExitStack() as stack:
            with self._translated(attempted):
                timeout = httpx.Timeout(POLL_SECONDS, connect=_CONNECT_SECONDS) if poll else self._timeout
                answer = self._client.stream("GET", self.url + path, headers=headers, timeout=timeout)
                response = stack.enter_context(answer)
            yield response

    @contextmanager
    def signed(
        self, path: str, attempted: str, accept: str = "application/octet-stream", *, poll: bool = False
    ) -> Iterator[httpx.Response]:
        """Request changelog entries with a token by the primary's clock, as far as it can be learned.

        accept: their formats; never all: devpi-server 7 would then send one that we cannot read.
        """

        def ask(token: str) -> AbstractContextManager[httpx.Response]:
            return self.get(path, attempted, {**self._identity(token), "Accept": accept}, poll=poll)

        with self._timely(ask, attempted) as response:
            yield response

    def _identity(self, token: str) -> dict[str, str]:
        headers = {
            "X-DEVPI-REPLICA-UUID": self.uuid,
            "X-DEVPI-EXPECTED-PRIMARY-ID": self.expected,
            "X-DEVPI-EXPECTED-MASTER-ID": self.expected,
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    @contextmanager
    def _timely(
        self, ask: Callable[[str], AbstractContextManager[httpx.Response]], attempted: str
    ) -> Iterator[httpx.Response]:
        """Hold the answer for which the token was not expired, or the last one for which it was.

        ask: sends a request with a token; "" for none.
        """
        signer = self._signer
        with ExitStack() as stack:
            offset, asked = (signer.offset, signer.steady()) if signer else (0.0, 0.0)
            response = stack.enter_context(ask(signer.token(self.uuid) if signer else ""))
            if signer is not None and self._expired(response, attempted):
                with self._searching:
                    for better, tried in signer.offsets(offset, _date(response), signer.steady() - asked):
                        stack.close()
                        response = stack.enter_context(ask(signer.token_by(self.uuid, tried)))
                        if not self._expired(response, attempted):
                            signer.keep(better)
                            break
            yield response

    def _expired(self, response: httpx.Response, attempted: str) -> bool:
        return response.status_code == 403 and _EXPIRED in self._text(response, attempted)

    def hello(self, response: httpx.Response, attempted: str, serial: int | None = None) -> Hello:
        """Check that the primary itself answers; return its hello.

        Raises NewerPrimary if its changelog has another format, WrongHistory if it is not the server that we
        follow, NotThePrimary if another server answers for a known one, PrimaryRefused if that happens at the
        first contact, and the error for its status if it lacks the headers of a devpi-server.
        """
        self._check_generation(response, serial)
        own, uuid = _uuids(response)
        position = response.headers.get("x-devpi-serial", "")
        good = _UUID.fullmatch(own) and _SERIAL.fullmatch(position) and int(position) <= _SERIAL_MAX
        if not good or (uuid and not _UUID.fullmatch(uuid)):
            self._refuse_nameless(response, attempted, serial)
        if uuid != own and (not uuid or not self.expected or uuid == self.expected):
            raise self._in_its_place(own, uuid, int(position), attempted, serial)
        if self.expected and uuid != self.expected:
            raise WrongHistory(
                attempted,
                f"it is another server: its UUID is {uuid}, but we follow {self.expected}",
                serial=serial,
                hint=Hint(
                    "nothing was written; check --primary-url, or clone into another serverdir; if the same "
                    "server got a new UUID, run {}",
                    Advice("catchup", adopt_primary_uuid=True),
                ),
            )
        self.last_seen = int(position)
        self.before_6_13 = "x-devpi-primary-uuid" not in response.headers
        return Hello(uuid, self.last_seen, self.before_6_13)

    def _refuse_nameless(self, response: httpx.Response, attempted: str, serial: int | None) -> NoReturn:
        """Raise the error for an answer without valid headers of a devpi-server."""
        try:
            self.refuse(response, attempted, serial)
            raise PrimaryRefused(
                attempted,
                "the answer has no valid X-DEVPI-UUID, X-DEVPI-PRIMARY-UUID and X-DEVPI-SERIAL",
                hint="check that the URL is the root of a devpi-server, and that no proxy removes headers",
            )
        except PrimaryRefused as err:
            if not self.expected or any(name.startswith("x-devpi-") for name in response.headers):
                raise
            # Once the server is known, a router answers like this while the server is down.
            raise NotThePrimary(attempted, err.why, serial=serial, hint=err.hint) from err

    def _in_its_place(
        self, own: str, uuid: str, position: int, attempted: str, serial: int | None
    ) -> ReplisyncError:
        """Return the error for the answer of a replica, which may be our own standby.

        own, uuid: its UUID and that of its primary, "" if it has not met one; position: its serial.
        """
        if not self.expected:
            return PrimaryRefused(attempted, _REPLICA, serial=serial, hint=_GIVE_PRIMARY)
        who = "our own standby" if own == self.uuid else f"a replica of the primary (UUID {own})"
        who = who if uuid else f"a replica that has not met its primary yet (UUID {own})"
        error = NotThePrimary(
            attempted,
            f"{who} answers at {self.url} at serial {position}, the primary itself does not",
            serial=serial,
        )
        error.details = {"answered_by": own} | ({"answered_serial": position} if uuid else {})
        return error

    def _check_generation(self, response: httpx.Response, serial: int | None) -> None:
        """Raise NewerPrimary if the changelog has a format that we do not read."""
        found = _VERSION.fullmatch(response.headers.get("x-devpi-server-version", ""))
        runs = None
        if found is not None and int(found[1]) > _NEWEST:
            runs = f"devpi-server {found[0]}"
        elif response.status_code == 406 and "x-devpi-serial" in response.headers:
            # devpi-server 7 sends 406 if none of its formats is accepted; a proxy may remove its version.
            runs = "a newer devpi-server (it answered 406)"
        if runs is not None:
            raise NewerPrimary(f"cannot follow {self.url}", f"it runs {runs}, and {_READS}", serial=serial)

    def refuse(self, response: httpx.Response, attempted: str, serial: int | None) -> None:
        """Raise the error for the status of a failure.

        Raises PrimaryUnreachable, PrimaryRefused or WrongHistory.
        """
        status = response.status_code
        if status in (200, 202):
            return
        text = self._text(response, attempted)
        if self._expired(response, attempted):
            # A known primary accepted our tokens before, so its clock, or ours, may be corrected again.
            refused = PrimaryUnreachable if self.expected else PrimaryRefused
            raise refused(attempted, _CLOCKS, serial=serial, hint=_CLOCKS_HINT)
        if status >= 500 or status in (408, 425, 429):
            raise PrimaryUnreachable(
                attempted, f"it answered {status} {response.reason_phrase}", serial=serial
            )
        if status == 400 and "as primary_uuid" in text:
            raise WrongHistory(attempted, "it is another server than the one that we follow", serial=serial)
        if 300 <= status < 400:
            why, hint = (
                f"it redirects ({status})",
                "give the final URL as --primary-url: redirects are not followed",
            )
        else:
            why, hint = self._refusal(response, text)
        raise PrimaryRefused(attempted, why, serial=serial, hint=hint)

    def _refusal(self, response: httpx.Response, text: str) -> tuple[str, str]:
        own, primarys = _uuids(response)
        if _NO_PRIMARY in text and not (own and own == primarys):
            # Only a standalone server may become the primary: turning a replica into one makes two primaries.
            return _REPLICA if own else _REFUSALS[_NO_PRIMARY][0], _GIVE_PRIMARY
        for word, (why, hint) in _REFUSALS.items():
            if word in text:
                return why, hint
        if response.status_code == 404 and self._root.path != "/":
            root = self._root.copy_with(raw_path=b"/")
            return (
                "it answered 404: there is no changelog below it",
                f"{_NOT_AN_INDEX}{root}; or {_NO_ROUTE_HINT}",
            )
        return f"it answered {response.status_code}", _NO_ROUTE_HINT

    def refusal_of(self, response: httpx.Response, attempted: str) -> tuple[bool, str]:
        """Return whether a failure is the server's own answer; and its source and status, in one clause.

        Only known texts of the server are repeated: others may contain secrets, such as the URL of an
        upstream.
        """
        status = response.status_code
        try:
            self.hello(response, attempted)
        except WrongHistory:
            return False, f"another devpi-server answered {status}"
        except (PrimaryRefused, PrimaryUnreachable) as err:
            if "answered_by" in err.details:
                return False, f"a replica (UUID {err.details['answered_by']}) answered {status}"
            signature = self._signature(response)
            return False, f"the answer was {status}, without the headers of a devpi-server{signature}"
        text = self._text(response, attempted) if status in (401, 403) else ""
        known = next((f": {why}" for word, (why, _) in _REFUSALS.items() if word in text), "")
        return True, f"the primary answered {status}{known}"

    def _signature(self, response: httpx.Response) -> str:
        """Return the identity of another server by its answer: its Server header, and its first words."""
        server = _shown(response.headers.get("server", ""))
        text = str(response.extensions.get("replisync.text", ""))
        words = _shown(_MARKUP.sub(" ", text))
        return (f" (Server: {server})" if server else "") + (f": {words}" if words else "")

    def _text(self, response: httpx.Response, attempted: str) -> str:
        # An error page has its message at the beginning; the rest may be endless. It can be read once.
        if "replisync.text" not in response.extensions:
            with self._translated(attempted):
                beginning = next(response.iter_raw(_TEXT_BYTES), b"")
            response.extensions["replisync.text"] = beginning.decode(errors="replace")
        return str(response.extensions["replisync.text"])

    def body(self, response: httpx.Response, attempted: str, limit: int) -> bytes:
        """Return all bytes of an answer.

        Raises PrimaryRefused if it has more than `limit` bytes.
        """
        parts = []
        size = 0
        for chunk in self.chunks(response, attempted):
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                raise PrimaryRefused(
                    attempted,
                    f"the answer has more than {limit} bytes",
                    hint="if the primary really has an entry that long, raise --max-entry-size",
                )
        return b"".join(parts)

    def chunks(self, response: httpx.Response, attempted: str) -> Iterator[bytes]:
        """Yield the bytes of an answer as they arrive.

        Raises PrimaryRefused if it is compressed, and the errors of `translated`.
        """
        if response.headers.get("content-encoding", "identity") != "identity":
            raise PrimaryRefused(
                attempted,
                "a proxy compresses answers although the request forbids it",
                hint="switch compression off in the proxy for this route",
            )
        with self._translated(attempted):
            yield from response.iter_raw()

    @contextmanager
    def _translated(self, attempted: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as err:
            error = translated(err, attempted)
            if self.expected and isinstance(error, PrimaryRefused):
                # The server was there before: this is another one, or the moment of a change.
                error = PrimaryUnreachable(attempted, error.why, hint=error.hint)
            raise error from err
        except httpx.StreamError as err:
            raise BrokenStream(attempted, str(err)) from err
        except httpx.InvalidURL as err:
            raise UsageError(attempted, f"not a URL: {err}") from err

    @contextmanager
    def file(
        self, relpath: str, attempted: str, method: str = "GET", *, first: int = 0
    ) -> Iterator[httpx.Response]:
        """Request a file with a token; hold the answer until the context ends.

        first: the first byte of its content to ask for.
        Raises the errors of `translated`.
        """

        def ask(token: str) -> AbstractContextManager[httpx.Response]:
            with self._translated(attempted):
                request = self._file_request(relpath, method, token)
                if first:
                    request.headers["Range"] = f"bytes={first}-"
                return closing(self._files.handle_request(request))

        with self._timely(ask, attempted) as response:
            yield response

    def _file_request(self, relpath: str, method: str, token: str) -> httpx.Request:
        """Return the request for a file, for the transport.

        httpx's own way to a request (cookies, redirects, hooks, parsing the URL each time) costs as much as
        the rest of a small download, and is not needed here.
        """
        known = self._file_headers  # once: other threads, with other tokens, set it too
        if known[0] != token:
            headers = {
                "Host": self._root.netloc.decode(),
                "User-Agent": _USER_AGENT,
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "X-DEVPI-REPLICA-FILEREPL": "YES",
                **self._identity(token),
            }
            known = self._file_headers = (token, httpx.Headers(headers))
        target = self._root.raw_path + quote(relpath).encode()
        extensions = {"target": target, "timeout": self._timeout.as_dict()}
        return httpx.Request(method, self._root, headers=known[1], extensions=extensions)


def _shown(text: str) -> str:
    """Return the first words of a foreign text on one line, without control characters."""
    printable = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(printable.split())[:_SHOWN].strip()


def _uuids(response: httpx.Response) -> tuple[str, str]:
    """Return the UUID of the server, and that of its primary (the same for a primary), or "".

    Source: `NodeInfo.make_uuid_headers` in `devpi_server/config.py`. A replica that has not met its primary
    yet sends an empty one.
    """
    own, primarys, masters = (
        response.headers.get(f"x-devpi-{name}uuid") for name in ("", "primary-", "master-")
    )
    return own or "", primarys or masters or ""


_NO_PRIMARY = "Replication protocol disabled"
_REPLICA = "it is a replica, not the primary itself"
_GIVE_PRIMARY = "give the URL of its primary as --primary-url"

_EXPIRED = "Authorization expired"
_CLOCKS = (
    "it calls our token expired, so its clock differs from ours, and its answer does not say by how much"
)
_CLOCKS_HINT = (
    "set the clocks of both machines with NTP; if nginx is before the primary, add "
    "`proxy_pass_header Date;` to its server block, so that the primary's time arrives here"
)

# The texts of the primary's 403 and 400 (devpi_server/replica.py), their meanings and remedies.
_REFUSALS = {
    _NO_PRIMARY: (
        "its role is not primary",
        "start it with `devpi-server --role primary`",
    ),
    "Authorization malformed": (
        "it does not accept our secret",
        "use the secret file that the primary was started with, or a key derived from it",
    ),
    "Wrong authorization value": ("it does not accept our identity", "check for proxies that change headers"),
    "requires a replica identity": (
        "our token did not reach it",
        "let the proxy before the primary pass on the Authorization header",
    ),
}


def _date(response: httpx.Response) -> float | None:
    """Return the time of an answer by its Date header, in seconds since the epoch, or None."""
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None


def translated(err: httpx.HTTPError, attempted: str) -> ReplisyncError:
    """Return our error for one of httpx."""
    why = str(err) or type(err).__name__
    if isinstance(err, HandshakeTimeout):
        return PrimaryRefused(attempted, "it does not answer a TLS handshake", hint=_PLAIN)
    if isinstance(err, httpx.TimeoutException):
        return PrimaryTimeout(attempted, f"no answer in time ({type(err).__name__})")
    if isinstance(err, httpx.UnsupportedProtocol):
        return UsageError(attempted, why, hint="give --primary-url as http://… or https://…")
    for cause in _causes(err):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PrimaryRefused(
                attempted,
                f"its TLS certificate cannot be verified: {cause.verify_message}",
                hint="renew it, or check the name in --primary-url, and the clocks"
                if cause.verify_code in _OF_ITS_OWN
                else "name a bundle with its CA: --ca-bundle, or SSL_CERT_FILE in the environment",
            )
        if isinstance(cause, socket.gaierror) and cause.errno in _NO_NAME:
            return PrimaryRefused(attempted, "its name is not known", hint="check the name in --primary-url")
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return PrimaryRefused(attempted, "its answer to a TLS handshake is not TLS", hint=_PLAIN)
        if isinstance(cause, ssl.SSLError) and (alert := _alert(cause)):
            return PrimaryRefused(
                attempted,
                f"it does not accept our TLS certificate, or that we show none ({alert})",
                hint="give the certificate and its key with --replica-cert",
            )
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return LocalFailure(attempted, why, hint="raise the limit (ulimit -n), or use fewer threads")
    if isinstance(err, httpx.RemoteProtocolError | httpx.ReadError):
        return BrokenStream(attempted, why)
    return PrimaryUnreachable(attempted, why)


def _causes(err: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes."""
    while err is not None:
        yield err
        err = err.__cause__ or err.__context__


def _alert(err: ssl.SSLError) -> str:
    """Return the TLS alert by which a server rejects our certificate; "" for another error.

    Source: the names of OpenSSL's reasons, such as TLSV13_ALERT_CERTIFICATE_REQUIRED (openssl/sslerr.h).
    """
    alert = (err.reason or "").partition("_ALERT_")[2]
    return alert.replace("_", " ").lower() if "CERTIFICATE" in alert or alert == "UNKNOWN_CA" else ""


def normalized_url(url: str) -> str:
    """Return the URL of a server's root, with a trailing slash.

    Raises UsageError if it is not the URL of a server, or contains a password.
    """
    attempted = "cannot read --primary-url"
    if "@" in url:
        raise UsageError(
            attempted, "it contains a user or password, which would end up in logs and process lists"
        )
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, ValueError) as err:
        raise UsageError(attempted, str(err)) from err
    if "://" not in url:
        raise UsageError(attempted, f"{url!r} has no scheme", hint=f"give it with one: https://{url}")
    if parsed.scheme not in ("http", "https") or not host:
        raise UsageError(attempted, "not an http:// or https:// URL")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise UsageError(attempted, f"{parsed.port} is not a port")
    if parsed.query or parsed.fragment:
        raise UsageError(attempted, "it has a query or a fragment")
    return str(parsed).rstrip("/") + "/"
