"""The published weights of VGGish: a pickled file, read for its tensors alone."""

from pathlib import Path

import torch
from torch import Tensor
from torchvggish.torchvggish import VGGISH_WEIGHTS

from codecdiff.errors import InvalidValue, UnknownName
from codecdiff.huggingface import may_fetch


def read_weights(file: Path | str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a local file, or of the published one, downloaded once into torch's cache.

    Raises LookupError if the file does not exist, and ValueError if it contains anything but tensors.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / VGGISH_WEIGHTS.rpartition("/")[2]
    try:
        if file is None and not cached.is_file() and not may_fetch():
            raise FileNotFoundError("nothing may be downloaded now")
        if file is None:
            weights = torch.hub.load_state_dict_from_url(
                VGGISH_WEIGHTS, map_location="cpu", check_hash=True, weights_only=True
            )
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UnknownName(
            f"The weights of VGGish are missing: {error}. They need a network the first time. To download "
            f"them elsewhere: {VGGISH_WEIGHTS}, then weights=FILE."
        ) from error
    except Exception as error:  # a damaged or a dangerous file fails in many ways
        raise InvalidValue(f"'{file or VGGISH_WEIGHTS}' cannot be read for tensors alone: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InvalidValue(f"'{file or VGGISH_WEIGHTS}' contains no weights by name. Download {VGGISH_WEIGHTS}.")
    return {name: tensor.float().contiguous() for name, tensor in weights.items()}
