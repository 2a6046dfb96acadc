"""I3D features of the Fréchet Video Distance, from one of its two public files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.metrics.features.i3d_network import CLASSES, I3DNetwork
from modules.metrics.features.video_features import VideoFeatures, fill, load_script
from modules.storage.checksums import file_hash
from modules.storage.tensor_file import open_tensors

# Both are conversions of the network that defines FVD, tf-hub's deepmind/i3d-kinetics-400/1.
KNOWN = {
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2": "i3d_torchscript.pt",
    "55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343": "i3d_pretrained_400.pt",
}
# The same architecture with other weights: its distance is not FVD, although often called so.
OTHERS = {"2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538": "rgb_imagenet.pt"}
SIDE = 224


class I3D(VideoFeatures):
    """Logits of 400 Kinetics classes, mean over time, of videos resized to 224 x 224 pixels.

    uint8 pixels are scaled to [-1, 1]; images are resized to a square, bilinear without antialiasing, as in TATS.

    Args:
        path: ``i3d_torchscript.pt`` or ``i3d_pretrained_400.pt``, identified by its SHA-256, not by its name.
        sha256: Hash of another file to accept. Its distance is not called FVD.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not one of these, or has another content.
    """

    num_features = CLASSES
    min_frames = 9

    def __init__(self, path: str, sha256: str | None = None) -> None:
        super().__init__()
        digest = file_hash(path)
        if digest in OTHERS:
            raise ValueError(f"{path} is {OTHERS[digest]}, not the network of FVD; values computed with it compare with nothing")
        if digest not in KNOWN and digest != (sha256 or "").lower():
            raise ValueError(
                f"{path} is neither {' nor '.join(KNOWN.values())}: its sha256 is {digest}; "
                "to accept it, pass this hash as sha256; the distance is then named after the file"
            )
        self.title = "FVD" if digest in KNOWN else f"Fréchet distance, features I3D file {digest[:8]}"
        self.digest = digest
        self.network, self.scripted = load_network(path)

    def fingerprint(self) -> str:
        return f"I3D {self.digest}"

    def vectors(self, video: Tensor) -> Tensor:
        images = rearrange(video, "b c t h w -> (b t) c h w").float()
        images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        pixels = rearrange(images, "(b t) c h w -> b c t h w", b=len(video)) / 127.5 - 1.0
        if self.scripted:
            return self.network(pixels, rescale=False, resize=False, return_features=True)
        return self.network(pixels)


def load_network(path: str | Path) -> tuple[nn.Module, bool]:
    """Return the network of a file, and True if it is TorchScript."""
    if is_script(path):
        return load_script(path)[0], True
    network = I3DNetwork()
    fill(network, open_tensors(path), path, f"I3D of {CLASSES} classes")
    return network.eval(), False


def is_script(path: str | Path) -> bool:
    """Return True if a file is TorchScript."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith("constants.pkl") for name in file.namelist())
