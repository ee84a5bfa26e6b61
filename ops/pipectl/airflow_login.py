"""Proof that an Airflow is this project's, and tokens that no other Airflow takes.

Airflow signs its tokens with AIRFLOW_JWT_SECRET, which is random per project. Its API for tasks answers any
request that carries a token about to expire with a new one. The token sent here opens nothing, since its
subject is no task; but whoever signs a new one with the same claims knows the secret. Tokens have the form
that Airflow's JWTGenerator gives them (airflow.api_fastapi.auth.tokens).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import secrets
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipectl import json_text
from pipectl.errors import ForeignAirflowError

if TYPE_CHECKING:
    from pipectl.models import AirflowAddress

# Airflow renews the token of a task that is valid for less than 30 s more.
CHALLENGE_SECONDS = 20
TOKEN_SECONDS = 86_400
# A token counts from a day ago, so that a clock that is set back does no harm.
EARLIER_SECONDS = 86_400
LARGEST_ANSWER = 65_536
CHALLENGE_PATH = "/execution/health"
RENEWED = "Refreshed-API-Token"
ALGORITHM = "HS512"


def api_token(address: AirflowAddress) -> str:
    """Return a token of the administrator for the REST API."""
    claims = {"sub": address.user, "role": "ADMIN", "teams": [], "aud": address.audience}
    return sign(address, claims, TOKEN_SECONDS)


def sign(address: AirflowAddress, claims: dict[str, Any], seconds: int) -> str:
    """Return a signed token with `claims` that is valid for so long."""
    now = int(time.time())
    issuer = {"iss": address.issuer} if address.issuer else {}
    times = {"nbf": now - EARLIER_SECONDS, "iat": now - EARLIER_SECONDS, "exp": now + seconds}
    header = {"alg": ALGORITHM, "kid": "not-used", "typ": "JWT"}
    whole = {"jti": secrets.token_hex(16), **issuer, **times, **claims}
    content = ".".join(_encoded(json.dumps(part).encode()) for part in (header, whole))
    return f"{content}.{_encoded(_signature(address.secret, content))}"


def claims_of(secret: str, token: str) -> dict[str, Any]:
    """Return the claims of a token; empty if it is not signed with `secret`."""
    content, _, signature = token.rpartition(".")
    try:
        if not hmac.compare_digest(_signature(secret, content), _decoded(signature)):
            return {}
        claims: dict[str, Any] = json_text.parse(_decoded(content.split(".")[1]))
    except (ValueError, IndexError):
        return {}
    return claims


class ProvenConnection(http.client.HTTPConnection):
    """A connection on which Airflow proves that it is this project's before anything else is sent.

    `address` is set before the first request. `connect` raises ForeignAirflowError.
    """

    address: AirflowAddress

    def connect(self) -> None:
        """Open the connection, and have the server prove itself."""
        super().connect()
        try:
            self._prove()
        except BaseException:
            self.close()
            raise

    def _prove(self) -> None:
        address = self.address
        nonce = secrets.token_hex(16)
        claims = {"sub": "pipectl", "scope": "pipectl", "nonce": nonce, "aud": address.task_audience}
        token = sign(address, claims, CHALLENGE_SECONDS)
        parts = urlsplit(address.url)
        path = parts.path.rstrip("/") + CHALLENGE_PATH
        try:
            renewed = self._ask(f"{path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}")
        except http.client.RemoteDisconnected:
            raise
        except http.client.HTTPException:
            renewed = ""  # it does not speak HTTP
        is_new = renewed not in {"", token}
        if address.secret and is_new and claims_of(address.secret, renewed).get("nonce") == nonce:
            return
        # Releases before 3.2 renew no such token.
        witness, port = address.witness, parts.port or http.client.HTTP_PORT
        if witness is not None and witness.holds("webserver", port):
            return
        who = (witness.stranger(port) if witness else "") or "another program"
        raise ForeignAirflowError(
            f"At {address.url} answers {who}, not this project's Airflow.",
            hint="Start this project's own: pipectl up. It takes another port if this one stays taken.",
        )

    def _ask(self, head: str) -> str:
        """Send a request on the connection before the one that it was opened for; return the new token."""
        self.sock.sendall(f"GET {head}\r\nAccept: */*\r\n\r\n".encode("ascii"))
        with http.client.HTTPResponse(self.sock, method="GET") as answer:
            answer.begin()
            answer.read(LARGEST_ANSWER)
            if answer.will_close:
                raise http.client.NotConnected
            return str(answer.getheader(RENEWED, ""))


def _signature(secret: str, content: str) -> bytes:
    return hmac.new(secret.encode(), content.encode(), hashlib.sha512).digest()


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
