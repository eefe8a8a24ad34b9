"""One server over HTTP: requests that carry our token, and what its answers mean whatever was asked.

All of httpx's errors are translated here; no module above this one sees one.
"""

import errno
import re
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
    BrokenStream,
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
from replisync.primary.transport import Transport

# The primary answers a poll after 30 seconds at the latest; devpi's own replica waits a quarter longer.
POLL_SECONDS = 37.5
_CONNECT_SECONDS = 10.0

# What OpenSSL finds wrong with a certificate that is no matter of its CA: not yet valid, expired, of another
# name or address (`X509_V_ERR_..` in openssl/x509_vfy.h).
_OF_ITS_OWN = (9, 10, 62, 64)

# devpi's are 32 digits in hex. Whatever it is, it goes into our headers, our tables and our messages.
_UUID = re.compile("[!-~]{1,64}")
# An empty server says -1.
_SERIAL = re.compile("-1|[0-9]{1,10}")
# As devpi's value format, and its tables in PostgreSQL, hold a serial.
_SERIAL_MAX = 2**31 - 1

# devpi-server 4 to 6 have one format of the changelog, 7 has another. Each answer names the version.
_VERSION = re.compile(r"([0-9]{1,4})(?:\.[0-9A-Za-z.+-]{1,40})?")
_NEWEST = 6
_READS = "this replisync reads the changelogs of devpi-server 4 to 6"

# How much of an answer that is no success is looked at.
_TEXT_BYTES = 16384

# What of a page is not shown, and how much of what is.
_MARKUP = re.compile("<(script|style).*?</\\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_SHOWN = 80

_USER_AGENT = f"devpi-replisync/{__version__}"

_NO_ROUTE_HINT = "a proxy before the primary may block /+changelog: let it through for this host"


@dataclass(frozen=True, slots=True)
class Link:
    """How a server is talked to.

    limits: of what is taken of a changelog.
    silence: seconds without a byte after which the server is given up; a poll is always given as long as
        the protocol allows.
    context: whom TLS trusts, and who we are; None for the usual trust.
    transport: what carries requests; our own if None.
    """

    limits: Limits = field(default_factory=Limits)
    silence: float = POLL_SECONDS
    context: ssl.SSLContext | None = None
    transport: httpx.BaseTransport | None = None


class Origin:
    """One server, as one replica sees it.

    url: of the server's root.
    signer: makes the tokens; None where no changelog is to be read.
    uuid: the replica's.
    expected: the UUID that the server must have; "" where it is not known yet.
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
            context = usual_trust()  # which takes longer to load than most answers
        self.uuid = uuid
        self.expected = expected
        self.last_seen = -1  # the server's serial by its last answer
        self.disconnected = True  # whether the connection of the last answer is closed after it
        self.before_6_13 = False  # by its last answer too
        self._signer = signer
        self._searching = threading.Lock()  # held by the one thread that tries offsets of the clocks
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
        self._file_headers: tuple[str, httpx.Headers] = ("", httpx.Headers())

    def close(self) -> None:
        """Let go of all connections."""
        self._client.close()

    def is_new(self, response: httpx.Response) -> bool:
        """Tell whether an answer came over a connection that has not answered since the last error."""
        self.disconnected = response.headers.get("connection", "").lower() == "close"
        stream = response.extensions.get("network_stream")
        known = any(stream is one for one in self._connections)
        if not known:
            self._connections.append(stream)
        return stream is None or not known

    def distrust(self) -> None:
        """Take every connection for new from now on."""
        self._connections.clear()

    # Requests.

    @contextmanager
    def get(
        self, path: str, attempted: str, headers: dict[str, str], *, poll: bool = False
    ) -> Iterator[httpx.Response]:
        """Ask without a token; hold the answer until the context ends.

        path: relative to the root.
        poll: whether the answer may take as long as a poll.
        Raises what `translated` makes of httpx's errors.
        """
        # The stack is unwound outside of the translation of the opening, so that errors of the caller
        # who reads the answer pass as they are.
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
        """Ask for changelog entries with a token, by the primary's clock as far as it can be learned.

        accept: their formats. It is never all: devpi-server 7 would take that for one that we cannot read.
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
        """Hold an answer to which the token was not expired, or the last of those to which it was.

        ask: asks with a token; "" for none.
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
        """Return who answers: the primary itself.

        Raises NewerPrimary where its changelog is not one that we read, WrongHistory where it is not the
        server that we follow, NotThePrimary where another one answers in the place of one that is known,
        PrimaryRefused where that is so at the first contact, and what its status means where the headers of a
        devpi-server are missing.
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
                f"it is another server: its UUID is {uuid}, and we follow {self.expected}",
                serial=serial,
                hint="nothing was written; check --primary-url, or clone into another serverdir",
            )
        self.last_seen = int(position)
        self.before_6_13 = "x-devpi-primary-uuid" not in response.headers
        return Hello(uuid, self.last_seen, self.before_6_13)

    def _refuse_nameless(self, response: httpx.Response, attempted: str, serial: int | None) -> NoReturn:
        """Raise what an answer means that does not say which server it is of."""
        try:
            self.refuse(response, attempted, serial)
            raise PrimaryRefused(
                attempted,
                "the answer has no X-DEVPI-UUID, X-DEVPI-PRIMARY-UUID and X-DEVPI-SERIAL that could be a "
                "server's",
                hint="check that the URL is the root of a devpi-server, and that no proxy removes headers",
            )
        except PrimaryRefused as err:
            if not self.expected or any(name.startswith("x-devpi-") for name in response.headers):
                raise
            # Once the server is known, that is how a router speaks while it is away.
            raise NotThePrimary(attempted, err.why, serial=serial, hint=err.hint) from err

    def _in_its_place(
        self, own: str, uuid: str, position: int, attempted: str, serial: int | None
    ) -> ReplisyncError:
        """Return the error for the answer of a replica, which may be our own standby.

        own, uuid: its UUID and that of its primary, "" where it has not met one; position: its serial.
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
        """Raise NewerPrimary where the changelog is of a format that we do not read."""
        found = _VERSION.fullmatch(response.headers.get("x-devpi-server-version", ""))
        runs = None
        if found is not None and int(found[1]) > _NEWEST:
            runs = f"devpi-server {found[0]}"
        elif response.status_code == 406 and "x-devpi-serial" in response.headers:
            # So devpi-server 7 answers those who accept none of its formats; a proxy may remove its version.
            runs = "a newer devpi-server (it answered 406)"
        if runs is not None:
            raise NewerPrimary(f"cannot follow {self.url}", f"it runs {runs}, and {_READS}", serial=serial)

    def refuse(self, response: httpx.Response, attempted: str, serial: int | None) -> None:
        """Raise what a status means that is no success.

        Raises PrimaryUnreachable, PrimaryRefused or WrongHistory.
        """
        status = response.status_code
        if status in (200, 202):
            return
        text = self._text(response, attempted)
        if self._expired(response, attempted):
            # A primary that is known took our tokens before, so its clock, or ours, may be set right again.
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
            # Only a server by itself may become the primary: a replica would make two of one.
            return _REPLICA if own else _REFUSALS[_NO_PRIMARY][0], _GIVE_PRIMARY
        for word, (why, hint) in _REFUSALS.items():
            if word in text:
                return why, hint
        return f"it answered {response.status_code}", _NO_ROUTE_HINT

    def refusal_of(self, response: httpx.Response, attempted: str) -> tuple[bool, str]:
        """Tell whether an answer that is no success is the server's own; and who says what, in one clause.

        Of the server's own words only those that we know are repeated: others may hold what is secret, such
        as the URL of an upstream.
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
        """Return what another's answer tells of itself: its Server header, and its first words."""
        server = _shown(response.headers.get("server", ""))
        text = str(response.extensions.get("replisync.text", ""))
        words = _shown(_MARKUP.sub(" ", text))
        return (f" (Server: {server})" if server else "") + (f": {words}" if words else "")

    def _text(self, response: httpx.Response, attempted: str) -> str:
        # What an error page says is at its beginning; the rest may be endless. It can be read once.
        if "replisync.text" not in response.extensions:
            with self._translated(attempted):
                beginning = next(response.iter_raw(_TEXT_BYTES), b"")
            response.extensions["replisync.text"] = beginning.decode(errors="replace")
        return str(response.extensions["replisync.text"])

    def body(self, response: httpx.Response, attempted: str, limit: int) -> bytes:
        """Return all of an answer.

        Raises PrimaryRefused where it has more than `limit` bytes.
        """
        parts = []
        size = 0
        for chunk in self.chunks(response, attempted):
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                raise PrimaryRefused(
                    attempted,
                    f"an answer of more than {limit} bytes",
                    hint="where the primary really has an entry that long, give a higher --max-entry-size",
                )
        return b"".join(parts)

    def chunks(self, response: httpx.Response, attempted: str) -> Iterator[bytes]:
        """Yield an answer as it arrives.

        Raises PrimaryRefused where it is compressed, and what `translated` makes of httpx's errors.
        """
        if response.headers.get("content-encoding", "identity") != "identity":
            raise PrimaryRefused(
                attempted,
                "something between the primary and us compresses answers that asked not to be",
                hint="switch compression off in the proxy for this route",
            )
        with self._translated(attempted):
            yield from response.iter_raw()

    @contextmanager
    def _translated(self, attempted: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as err:
            raise translated(err, attempted) from err
        except httpx.StreamError as err:
            raise BrokenStream(attempted, str(err)) from err
        except httpx.InvalidURL as err:
            raise UsageError(attempted, f"not a URL: {err}") from err

    @contextmanager
    def file(self, relpath: str, attempted: str, method: str = "GET") -> Iterator[httpx.Response]:
        """Ask for a file with a token; hold the answer until the context ends.

        Raises what `translated` makes of httpx's errors.
        """

        def ask(token: str) -> AbstractContextManager[httpx.Response]:
            with self._translated(attempted):
                request = self._file_request(relpath, method, token)
                return closing(self._transport.handle_request(request))

        with self._timely(ask, attempted) as response:
            yield response

    def _file_request(self, relpath: str, method: str, token: str) -> httpx.Request:
        """Return the request of a file, for the transport.

        A client's own way to a request (cookies, redirects, hooks, a URL parsed each time) costs as much
        as all the rest of a small download, and none of it is wanted here.
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
    """Return the beginning of others' words on one line, and nothing that a terminal obeys."""
    printable = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(printable.split())[:_SHOWN].strip()


def _uuids(response: httpx.Response) -> tuple[str, str]:
    """Return the UUID of who answers, and that of its primary, which is the same for a primary; or "".

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
    "set the clocks of both machines by NTP; where nginx is before the primary, let its server block say "
    "`proxy_pass_header Date;`, so that the primary's time arrives here"
)

# What the primary's 403 and 400 say (devpi_server/replica.py), what it means and what helps.
_REFUSALS = {
    _NO_PRIMARY: (
        "its role is not primary",
        "start it with `devpi-server --role primary`",
    ),
    "Authorization malformed": (
        "it does not accept our secret",
        "use the very secret file (or a key derived from it) that the primary was started with",
    ),
    "Wrong authorization value": ("it does not accept our identity", "check for proxies that change headers"),
    "requires a replica identity": (
        "our token did not reach it",
        "let the proxy before the primary pass on the Authorization header",
    ),
}


def _date(response: httpx.Response) -> float | None:
    """Return when an answer says that it was made, in seconds since the epoch; None where it does not."""
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None


def translated(err: httpx.HTTPError, attempted: str) -> ReplisyncError:
    """Return our error for one of httpx's."""
    why = str(err) or type(err).__name__
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
    """Yield an exception and those that it was raised from."""
    while err is not None:
        yield err
        err = err.__cause__ or err.__context__


def _alert(err: ssl.SSLError) -> str:
    """Return the alert by which a server refuses our certificate; "" if it is another error.

    Source: the names of OpenSSL's reasons, such as TLSV13_ALERT_CERTIFICATE_REQUIRED (openssl/sslerr.h).
    """
    alert = (err.reason or "").partition("_ALERT_")[2]
    return alert.replace("_", " ").lower() if "CERTIFICATE" in alert or alert == "UNKNOWN_CA" else ""


def normalized_url(url: str) -> str:
    """Return the URL of a server's root, with a slash at its end.

    Raises UsageError for what is no URL of a server, and for one that carries a password.
    """
    attempted = "cannot read --primary-url"
    if "@" in url:
        raise UsageError(
            attempted, "it carries a user or password, which would end up in logs and process lists"
        )
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, ValueError) as err:
        raise UsageError(attempted, str(err)) from err
    if parsed.scheme not in ("http", "https") or not host:
        raise UsageError(attempted, "not an http:// or https:// URL")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise UsageError(attempted, f"{parsed.port} is no port")
    if parsed.query or parsed.fragment:
        raise UsageError(attempted, "it has a query or a fragment")
    return str(parsed).rstrip("/") + "/"
