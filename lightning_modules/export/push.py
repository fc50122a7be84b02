"""An exported folder to the hub of Hugging Face."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from lightning_modules.utils.errors import InputError, as_input_error

ACCEPTED = "the id of a model on the hub that your token may write to, USER/NAME"


def check_push(name: str) -> None:
    """Raises an InputError where it can be told already that a push will fail."""
    with as_input_error(f"--push {name}", ACCEPTED):
        validate_repo_id(name)
    if huggingface_hub.get_token() is None:
        raise InputError(
            f"--push {name}: there is no token; accepted: one that may write, by hf auth login or "
            "in HF_TOKEN"
        )


def push(folder: Path, name: str) -> str:
    """Upload all files of a folder as a model, which is made where it is not there; its address.

    Raises:
        InputError: it cannot be reached or written. The folder stays.
    """
    api = HfApi(library_name="relprop")
    with as_input_error(
        f"--push {name}: {folder} is written, and cannot be pushed",
        f"{ACCEPTED}, and the hub in reach; again with: hf upload {name} {folder}",
    ):
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, commit_message="Upload model"
        )
    return str(address)
