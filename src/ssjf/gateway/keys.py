"""Who may come in: API keys, known only by their hashes.

Keys are random and long, so a plain hash is enough: there is nothing to guess. Every known hash is compared in
constant time, whether an earlier one fits or not. This module does not know what a caller does.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ssjf.config import KeySettings
from ssjf.errors import RequestError
from ssjf.gateway.http.incoming import Caller

_PREFIX = "sk-ssjf-"

NOBODY = Caller()
"""Who has no key and asks for nothing that needs one."""


def new_key() -> tuple[str, str]:
    """A new key and its SHA-256 hash in hexadecimal."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """Tells callers from strangers.

    Args:
        keys: known ones; none at all lets everybody in.
        tenant_header: header that names the tenant where there are no keys; None for no such header.
        accept_hints: of callers without keys; those with one have it in their key.
        open_admin: where there are no keys, anybody may see what the gateway knows.
    """

    def __init__(
        self, keys: Sequence[KeySettings], *, tenant_header: str | None, accept_hints: bool, open_admin: bool
    ) -> None:
        self._callers = [
            (
                bytes.fromhex(key.sha256),
                Caller(key.name, key.tenant or key.name, key.tier, admin=key.admin, hints=key.hints or accept_hints),
            )
            for key in keys
        ]
        self._anybody = Caller(hints=accept_hints, admin=open_admin)
        self._tenant_header = tenant_header.lower() if tenant_header else None

    @property
    def required(self) -> bool:
        """Whether callers have to show a key."""
        return bool(self._callers)

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who sends these headers (by lower-case name).

        Raises:
            RequestError: 401, a key is needed and this is none.
        """
        if not self._callers:
            if self._tenant_header is None:
                return self._anybody
            return replace(self._anybody, tenant=headers.get(self._tenant_header, "")[:128])
        scheme, _, key = headers.get("authorization", "").partition(" ")
        shown = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        found = None
        for digest, caller in self._callers:
            if hmac.compare_digest(shown, digest):
                found = caller
        if found is None or scheme.lower() != "bearer":
            raise RequestError(
                "this server needs an API key, as 'Authorization: Bearer KEY'", status=401, code="invalid_api_key"
            )
        return found

    def admin(self, headers: Mapping[str, str]) -> None:
        """Let in who may see what the gateway knows.

        Raises:
            RequestError: 401 or 403.
        """
        if not self.caller(headers).admin:
            message = "this page needs a key with admin = true (made by: ssjf config key)"
            if not self._callers:
                message += ", or the setting admin_without_key, where others than this machine may come in"
            raise RequestError(message, status=403, code="forbidden")
