"""Upload an exported folder to a repository of the Hugging Face hub, in one commit.

The settings of the library apply: HF_ENDPOINT, HF_TOKEN or `hf auth login`, HF_HUB_OFFLINE and proxies.
"""

from pathlib import Path

from huggingface_hub import HfApi, constants, errors, get_token
from huggingface_hub.utils import disable_progress_bars, validate_repo_id
from huggingface_hub.utils.logging import set_verbosity_error

from src.config.schema import UserError
from src.runtime.errors import first_line
from src.runtime.log import replace_control_chars

constants.HF_HUB_DISABLE_TELEMETRY = True  # otherwise the library requests a list of agents and caches it in ~


def check_push(repository: str) -> None:
    """Check, without a request, that a folder could be uploaded to OWNER/NAME. Raises: UserError."""
    try:
        validate_repo_id(repository)
    except errors.HFValidationError as error:
        reason = replace_control_chars(first_line(error))
        raise UserError(f"push={repository:.100}: not the name of a repository ({reason}); write OWNER/NAME") from None
    if "/" not in repository:
        raise UserError(f"push={repository}: has no owner; write OWNER/NAME")
    if constants.is_offline_mode():
        raise UserError(f"push={repository}: HF_HUB_OFFLINE is set; unset it")
    if get_token() is None:
        raise UserError(f"push={repository}: there is no token; set HF_TOKEN to one that may write, or hf auth login")


def push_folder(folder: Path, repository: str) -> str:
    """Upload the files of a complete folder to OWNER/NAME, and return the address of the commit.

    A repository that does not exist is created, and is private. Files of the repository that the folder does not have
    stay. Raises: UserError if the hub does not take it.
    """
    api = HfApi(endpoint=constants.ENDPOINT)
    set_verbosity_error()  # warnings of each retry would hide the error line
    disable_progress_bars()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a model")
    except Exception as error:  # from several libraries, which depend on the version of huggingface_hub
        raise UserError(f"push={repository}: {_describe_error(error)}; {folder} is complete") from None
    return replace_control_chars(str(commit.commit_url))


def _describe_error(error: Exception) -> str:
    """Describe an error of the library by what was answered and its remedy."""
    hub = constants.ENDPOINT
    while not isinstance(error, errors.HfHubHTTPError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        reason = replace_control_chars(first_line(ValueError(error.server_message or "no reason given")))
        remedies = {401: "give another token in HF_TOKEN", 403: "give a token that may write there, or another OWNER"}
        remedy = remedies.get(status, "correct the name or try again later")
        return f"{hub} answers with status {status} ({reason:.200}); {remedy}, and repeat the command"
    reason = replace_control_chars(first_line(error))
    return f"{hub} cannot be reached ({reason:.200}); check the network and HF_ENDPOINT, and repeat the command"
