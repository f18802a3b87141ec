"""Where the images come from: one function a source, each returning `Splits`.

Each loads its data once a process, so the jobs of a sweep that run in one process share them.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mupl.data.splits import Splits
from mupl.errors import ConfigError

SPLIT_SEED = (
    0  # of every split that we make; not the run's seed, so that all runs see the same examples
)
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MAX_THREADS = 8  # to decode with; more of them wait for the GIL (images of 32 pixels already gain nothing from two)


@functools.cache
def digits(root: str | Path | None = None) -> Splits:
    """scikit-learn's 8x8 handwritten digits: 1797 images, 80 % to train, 1 channel, 10 classes; no download.

    root is not needed; it is an argument so that data.root can be set whatever the source.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    x = (
        torch.from_numpy(data.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    )  # 0..16 to 0..255
    return _split(x, torch.from_numpy(data.target).long(), num_classes=10, val_fraction=0.2)


def mnist(root: str | Path, download: bool = False) -> Splits:
    """MNIST: 60,000 + 10,000 images (1, 28, 28), 10 classes. root holds MNIST/raw."""
    return _torchvision("MNIST", _absolute(root), download, files="MNIST/raw")


def fashion_mnist(root: str | Path, download: bool = False) -> Splits:
    """Fashion-MNIST: 60,000 + 10,000 images (1, 28, 28), 10 classes. root holds FashionMNIST/raw."""
    return _torchvision("FashionMNIST", _absolute(root), download, files="FashionMNIST/raw")


def cifar10(root: str | Path, download: bool = False) -> Splits:
    """CIFAR-10: 50,000 + 10,000 images (3, 32, 32), 10 classes. root holds cifar-10-batches-py."""
    return _torchvision("CIFAR10", _absolute(root), download, files="cifar-10-batches-py")


def image_folder(
    root: str | Path, image_size: int | None = None, val_fraction: float = 0.2, cache: bool = True
) -> Splits:
    """Any folder of images with one sub-folder a class, as torchvision's ImageFolder reads it, all made RGB.

    If root has `train` and one of `val`, `valid`, `test` (the first of these), they are the splits; else root itself
    holds the classes and a fixed permutation puts `val_fraction` of the images into the validation split.

    image_size: pixels; images are resized to (image_size, image_size), bilinear, without regard to their aspect.
    None: as they are, which must then be one size. cache: keep the decoded images in one .pt file in root.

    Raises ConfigError if there are no images, one cannot be decoded, sizes or classes differ.
    """
    return _image_folder(_absolute(root), image_size, val_fraction, cache)


def _absolute(root: str | Path) -> Path:
    """The key under which a source is remembered: "data" and Path("data") are one, "data" elsewhere is another."""
    return Path(root).expanduser().resolve()


@functools.cache
def _torchvision(name: str, root: Path, download: bool, files: str) -> Splits:
    """The data set of class `name` of torchvision.datasets with its own train and test split, of 10 classes."""
    try:
        if (
            "MNIST" in name and not download
        ):  # torchvision's import takes longer than the training of a small sweep
            train_x, train_y, val_x, val_y = (_read_idx(root / files / file) for file in IDX_FILES)
            return Splits(train_x, train_y, val_x, val_y, num_classes=10)
        import torchvision.datasets

        dataset_class = getattr(torchvision.datasets, name)
        train, test = (
            dataset_class(root, train=train, download=download) for train in (True, False)
        )
    except (RuntimeError, OSError) as error:
        if download:
            raise ConfigError(
                f"data.download=true: could not get {name} into {root} ({_first_line(error)})"
            ) from error
        raise ConfigError(
            f"data.root={root}: no {name} files there; give the folder that holds {files}, or data.download=true"
        ) from error
    return Splits(*_tensors(train), *_tensors(test), num_classes=10)


def _read_idx(file: Path) -> Tensor:
    """Images (N, 1, H, W) uint8 or labels (N,) int64 from a file in MNIST's format (yann.lecun.com/exdb/mnist).

    It begins with 0, 0, 8 (bytes), the number of dimensions, and each dimension's size as a big-endian uint32.
    """
    content = np.fromfile(file, np.uint8)
    start = 4 + 4 * int(content[3])
    x = torch.from_numpy(content[start:].reshape(content[4:start].view(">u4")))
    return x.unsqueeze(1) if x.ndim == 3 else x.long()


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and labels (N,) int64 of a torchvision data set that holds them in memory."""
    x = torch.as_tensor(dataset.data)  # (N, H, W), or (N, H, W, C)
    x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
    return x, torch.as_tensor(dataset.targets, dtype=torch.int64)


@functools.cache
def _image_folder(root: Path, image_size: int | None, val_fraction: float, cache: bool) -> Splits:
    if image_size is not None and image_size < 1:
        raise ConfigError(f"data.image_size={image_size}: must be at least 1 pixel, or null")
    if not 0 < val_fraction < 1:
        raise ConfigError(f"data.val_fraction={val_fraction}: must be between 0 and 1")
    held_out = [root / name for name in ("val", "valid", "test") if (root / name).is_dir()]
    # `train` alone may be a class (of vehicles, say).
    folders = [root / "train", held_out[0]] if held_out and (root / "train").is_dir() else [root]
    listings = [_listing(root, folder) for folder in folders]
    classes = listings[0].classes
    for folder, listing in zip(folders, listings, strict=True):
        if listing.classes != classes:
            differing = sorted(set(listing.classes) ^ set(classes))
            raise ConfigError(
                f"data.root={root}: train and {folder.name} must have the same classes; not in both: "
                + ", ".join(differing[:5])
            )
    if len(classes) < 2:
        raise ConfigError(
            f"data.root={root}: one class only ({classes[0]}); give the folder that holds the class folders"
        )
    paths = [path for listing in listings for path, _ in listing.samples]
    y = torch.tensor([label for listing in listings for label in listing.targets])
    x = _cached_images(root, paths, image_size) if cache else _decode(root, paths, image_size)
    if len(folders) == 1:
        return _split(x, y, len(classes), val_fraction)
    num_train = len(listings[0])
    return Splits(x[:num_train], y[:num_train], x[num_train:], y[num_train:], len(classes))


def _listing(root: Path, folder: Path) -> Any:
    """The ImageFolder of `folder`: classes, samples and targets; no image is opened."""
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(folder)
    except (
        OSError
    ) as error:  # FileNotFoundError of torchvision's own, or a folder that cannot be read
        raise ConfigError(
            f"data.root={root}: no images there ({_first_line(error)}); give a folder of one folder of images a class"
        ) from error


def _cached_images(root: Path, paths: list[str], image_size: int | None) -> Tensor:
    """`_decode`, read from the .pt file in root if that was made of these very files, else written there."""
    file = root / f"mupl_images_{image_size or 'native'}.pt"
    fingerprint = _fingerprint(root, paths)
    try:
        stored = torch.load(file, weights_only=True)
        if stored["fingerprint"] == fingerprint:
            images: Tensor = stored["images"]
            return images
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError):
        pass  # absent, or not a file of ours: made anew
    decoded = _decode(root, paths, image_size)
    partial = (
        root / f".{file.name}.{uuid.uuid4().hex}"
    )  # renamed when complete, so nobody reads half a file
    try:
        with partial.open("wb") as stream:
            torch.save({"fingerprint": fingerprint, "images": decoded}, stream)
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"no cache of the decoded images in {root}: {_first_line(error)}", stacklevel=2
        )
        with contextlib.suppress(
            OSError
        ):  # a read-only file system refuses even to remove what is not there
            partial.unlink()
    return decoded


def _fingerprint(root: Path, paths: list[str]) -> str:
    """A hash of the files' relative paths, sizes and modification times, in order."""
    digest = hashlib.sha256()
    for path in paths:
        status = os.stat(path)
        digest.update(
            f"{path[len(str(root)) :]}\0{status.st_size}\0{status.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()


def _decode(root: Path, paths: list[str], image_size: int | None) -> Tensor:
    """Images as RGB (N, 3, H, W) uint8, decoded by threads (PIL releases the GIL)."""
    from PIL import Image
    from rich.console import Console
    from rich.progress import Progress

    def read(path: str) -> np.ndarray:
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except OSError as error:
            raise ConfigError(
                f"data.root={root}: cannot decode {os.path.relpath(path, root)} ({_first_line(error)}); "
                "replace or remove it"
            ) from error
        if image_size is not None and rgb.size != (image_size, image_size):
            rgb = rgb.resize((image_size, image_size), Image.Resampling.BILINEAR)
        return np.asarray(rgb).transpose(2, 0, 1)

    decoded = np.empty((len(paths), *read(paths[0]).shape), dtype=np.uint8)

    def fill(start: int) -> int:
        chunk = range(start, min(start + 256, len(paths)))
        for i in chunk:
            image = read(paths[i])
            if image.shape != decoded.shape[1:]:
                (height, width), (first_height, first_width) = image.shape[1:], decoded.shape[2:]
                raise ConfigError(
                    f"data.root={root}: {os.path.relpath(paths[i], root)} is {width}x{height} but the images before it "
                    f"are {first_width}x{first_height}; set data.image_size"
                )
            decoded[i] = image
        return len(chunk)

    threads = min(os.cpu_count() or 1, MAX_THREADS)
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        ThreadPoolExecutor(threads) as pool,
    ):
        task = progress.add_task("decoding images", total=len(paths))
        for count in pool.map(
            fill, range(0, len(paths), 256)
        ):  # in order, so the first bad image is the one named
            progress.advance(task, count)
    return torch.from_numpy(decoded)


def _split(x: Tensor, y: Tensor, num_classes: int, val_fraction: float) -> Splits:
    """A fixed permutation of the examples; the last `val_fraction` of it is the validation split."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_val = round(val_fraction * len(x))
    if not 0 < num_val < len(x):
        raise ConfigError(
            f"data.val_fraction={val_fraction}: leaves one split of {len(x)} images empty"
        )
    train, val = order[:-num_val], order[-num_val:]
    return Splits(x[train], y[train], x[val], y[val], num_classes)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
