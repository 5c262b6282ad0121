"""Where results go: whether they can, before a long run; and the folder, once there is something to put there."""

import os
from pathlib import Path

from ssjf.errors import ConfigError


def check_folder(folder: Path) -> None:
    """Find out whether a folder is there or could be made; makes nothing.

    Raises:
        ConfigError: it is not and could not.
    """
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "is a file" if nearest == folder.absolute() else f"cannot be made in {nearest}"
        raise ConfigError(f"--out {folder} {what}; name a folder")


def make_folder(folder: Path, option: str = "--out") -> None:
    """Make a folder for results.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {folder} cannot be made: {error.strerror or error}; name another folder") from None
