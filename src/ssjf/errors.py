"""Every error that ssjf raises on purpose.

    SSJFError
    ├── UserError            what the user gave cannot work; the message says what to do  (CLI exit 2)
    │   ├── ConfigError      a setting is unknown, missing or out of range
    │   ├── DataError        a workload, prompt set or log file cannot be read
    │   ├── PluginError      no policy, predictor or backend of that name, or it cannot be loaded
    │   └── ArtefactError    a predictor folder is damaged, foreign or of another version
    ├── QueueFull            rejected before it waited: the waiting queue is at its limit   (HTTP 429)
    ├── RequestError         one request cannot be served as asked                          (HTTP 4xx)
    └── BackendError         the engine failed, refused or answered nonsense                (HTTP 502/503)

Anything else that escapes is a bug. `assert` is kept for our own invariants.
"""

import difflib
from collections.abc import Iterable


class SSJFError(Exception):
    """Base of every deliberate error."""


class UserError(SSJFError):
    """What the user gave cannot work; the message says what to do next."""


class ConfigError(UserError):
    """A setting is unknown, missing or out of range."""


class DataError(UserError):
    """A data file cannot be read as what it should be."""


class PluginError(UserError):
    """No plugin of that name, or it cannot be loaded."""


class ArtefactError(UserError):
    """A predictor artefact is damaged, foreign or of another version."""


class QueueFull(SSJFError):
    """The waiting queue is at its limit; the request was never accepted."""


class RequestError(SSJFError):
    """One request cannot be served as asked.

    Attributes:
        status: the HTTP status to answer with, 4xx.
        param: the request field at fault, if one is.
        code: a short machine-readable reason, in OpenAI's style.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class BackendError(SSJFError):
    """The engine failed, refused the connection or answered nonsense."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message about an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}known: {', '.join(names)}"
