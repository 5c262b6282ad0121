"""Data sets of the Hugging Face hub by name: ``hf://OWNER/NAME/FILE`` is a local copy of that file.

Sets behind an agreement, such as LMSYS-Chat-1M, need a login (`hf auth login`) by somebody who has agreed.
"""

from pathlib import Path

from ssjf.errors import DataError

_PREFIX = "hf:"


def local_copy(path: str | Path) -> Path:
    """The file itself, fetched first where it lies on the hub and is not in the hub's cache here.

    Raises:
        DataError: it cannot be had, or no file of the set is named; the message tells which there are.
    """
    # a Path has made one slash of the two
    scheme, _, rest = str(path).partition("/")
    if scheme != _PREFIX:
        return Path(path)
    owner, _, rest = rest.lstrip("/").partition("/")
    name, _, file = rest.partition("/")
    repository = f"{owner}/{name}"
    if not name:
        raise DataError(f"{path}: write hf://OWNER/NAME/FILE")
    try:
        from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - an extra
    except ImportError:
        raise DataError(f"{path}: data sets of the hub need huggingface_hub: pip install 'ssjf[train]'") from None
    try:
        if not file:
            files = HfApi().list_repo_files(repository, repo_type="dataset")
            raise DataError(f"{path}: name one of its files: {', '.join(files)}")
        return Path(hf_hub_download(repository, file, repo_type="dataset"))
    except (OSError, ValueError, RuntimeError) as error:  # what the hub's client and its HTTP library raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} cannot be had from the hub ({type(error).__name__}: {reason}); "
            "download it by other means and name the local file"
        ) from None
