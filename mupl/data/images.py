"""Where the images come from: one function for each source, each returning `Splits`.

Each loads its data once a process, so that the jobs of a sweep in one process share them.
"""

import contextlib
import functools
import hashlib
import os
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mupl.data.splits import Splits, random_split
from mupl.errors import ConfigError

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# To decode with; more threads wait for the GIL (images of 32 pixels already gain nothing from two)
MAX_THREADS = 8
DECODED_AT_ONCE = 256  # images that a thread takes at a time


@functools.cache
def digits(root: str | Path | None = None) -> Splits:
    """scikit-learn's 8x8 handwritten digits: 1797 images, 80 % to train, 1 channel, 10 classes.

    They come with scikit-learn, so root is not needed; it is an argument so that data.root can be
    set whatever the source.

    Example:
        >>> splits = digits()
        >>> splits.train_x.shape, len(splits.val_x), splits.num_classes
        (torch.Size([1438, 1, 8, 8]), 359, 10)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.images * (255 / 16))  # from 0..16 to 0..255
    x = pixels.round().to(torch.uint8).unsqueeze(1)
    y = torch.from_numpy(data.target).long()
    return _split(x, y, num_classes=10, val_fraction=0.2)


def mnist(root: str | Path, download: bool = False) -> Splits:
    """MNIST: 60,000 + 10,000 images (1, 28, 28), 10 classes. root holds MNIST/raw."""
    return _torchvision("MNIST", _absolute(root), download, files="MNIST/raw")


def fashion_mnist(root: str | Path, download: bool = False) -> Splits:
    """Fashion-MNIST: 60,000 + 10,000 images (1, 28, 28), 10 classes; in root/FashionMNIST/raw."""
    return _torchvision("FashionMNIST", _absolute(root), download, files="FashionMNIST/raw")


def cifar10(root: str | Path, download: bool = False) -> Splits:
    """CIFAR-10: 50,000 + 10,000 images (3, 32, 32), 10 classes. root holds cifar-10-batches-py."""
    return _torchvision("CIFAR10", _absolute(root), download, files="cifar-10-batches-py")


def image_folder(
    root: str | Path, image_size: int | None = None, val_fraction: float = 0.2, cache: bool = True
) -> Splits:
    """Any folder of images with one sub-folder a class, as torchvision's ImageFolder reads it.

    All images are made RGB. If root has `train` and one of `val`, `valid`, `test` (the first of
    these), they are the splits; else root itself holds the classes, and a fixed permutation puts
    `val_fraction` of the images into the validation split.

    Args:
        image_size: pixels; images are resized to (image_size, image_size), bilinear, without regard
            to their aspect. None leaves them as they are; they must then have one size.
        cache: keep the decoded images in one file in root.

    Raises:
        ConfigError: if there are no images, one cannot be decoded, sizes or classes differ.
    """
    return _image_folder(_absolute(root), image_size, val_fraction, cache)


def _absolute(root: str | Path) -> Path:
    """The key by which a source is remembered: "data" elsewhere is another folder."""
    return Path(root).expanduser().resolve()


@functools.cache
def _torchvision(name: str, root: Path, download: bool, files: str) -> Splits:
    """The class `name` of torchvision.datasets, of 10 classes, with its own splits."""
    try:
        # torchvision's import takes longer than the training of a small sweep
        if "MNIST" in name and not download:
            train_x, train_y, val_x, val_y = (_read_idx(root / files / file) for file in IDX_FILES)
            return Splits(train_x, train_y, val_x, val_y, num_classes=10)
        import torchvision.datasets

        dataset_class = getattr(torchvision.datasets, name)
        train_x, train_y = _tensors(dataset_class(root, train=True, download=download))
        val_x, val_y = _tensors(dataset_class(root, train=False, download=download))
        return Splits(train_x, train_y, val_x, val_y, num_classes=10)
    except (RuntimeError, OSError) as error:
        if download:
            raise ConfigError(
                f"data.download=true: could not get {name} into {root} ({_first_line(error)})"
            ) from error
        raise ConfigError(
            f"data.root={root}: no {name} files there; give the folder that holds {files}, "
            "or data.download=true"
        ) from error


def _read_idx(file: Path) -> Tensor:
    """Images (N, 1, H, W) uint8 or labels (N,) int64 in MNIST's format (yann.lecun.com/exdb/mnist).

    It begins with 0, 0, 8 (bytes), the number of dimensions, and each dimension's size as a
    big-endian uint32.
    """
    content = np.fromfile(file, np.uint8)
    start = 4 + 4 * int(content[3])
    sizes = content[4:start].view(">u4")
    x = torch.from_numpy(content[start:].reshape(sizes))
    return x.unsqueeze(1) if x.ndim == 3 else x.long()


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and labels (N,) int64 of a torchvision data set in memory."""
    x = torch.as_tensor(dataset.data)  # (N, H, W) or (N, H, W, C)
    y = torch.as_tensor(dataset.targets, dtype=torch.int64)
    if x.ndim == 3:
        return x.unsqueeze(1), y
    return x.permute(0, 3, 1, 2).contiguous(), y


@functools.cache
def _image_folder(root: Path, image_size: int | None, val_fraction: float, cache: bool) -> Splits:
    if image_size is not None and image_size < 1:
        raise ConfigError(f"data.image_size={image_size}: must be at least 1 pixel, or null")
    if not 0 < val_fraction < 1:
        raise ConfigError(f"data.val_fraction={val_fraction}: must be between 0 and 1")
    train, val = _listings(root)
    classes = train.classes
    samples = train.samples + (val.samples if val else [])
    paths = [path for path, _ in samples]
    y = torch.tensor([label for _, label in samples])
    x = _cached_images(root, paths, image_size) if cache else _decode(root, paths, image_size)
    if val is None:
        return _split(x, y, len(classes), val_fraction)
    count = len(train.samples)
    return Splits(x[:count], y[:count], x[count:], y[count:], len(classes))


def _listings(root: Path) -> tuple[Any, Any]:
    """The train and validation folders' ImageFolder; the latter is None if root has no splits.

    Raises:
        ConfigError: if there are no images, one class only, or other classes to validate on.
    """
    val_folders = [root / name for name in ("val", "valid", "test") if (root / name).is_dir()]
    if not (root / "train").is_dir() or not val_folders:  # `train` alone may be a class
        train = _listing(root, root)
        val = None
    else:
        train = _listing(root, root / "train")
        val = _listing(root, val_folders[0])
    if val is not None and val.classes != train.classes:
        differing = sorted(set(val.classes) ^ set(train.classes))
        raise ConfigError(
            f"data.root={root}: train and {val_folders[0].name} must have the same classes; "
            f"not in both: {', '.join(differing[:5])}"
        )
    if len(train.classes) < 2:
        raise ConfigError(
            f"data.root={root}: one class only ({train.classes[0]}); "
            "give the folder that holds the class folders"
        )
    return train, val


def _listing(root: Path, folder: Path) -> Any:
    """The ImageFolder of `folder`: classes and samples (path, label); no image is opened."""
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(folder)
    except OSError as error:  # torchvision's own FileNotFoundError, or a folder without access
        raise ConfigError(
            f"data.root={root}: no images there ({_first_line(error)}); "
            "give a folder of one folder of images a class"
        ) from error


def _cached_images(root: Path, paths: list[str], image_size: int | None) -> Tensor:
    """`_decode`, kept in a file in root whose name says of which images it was made.

    joblib.Memory would do it too, but it unpickles what it finds in a data folder, and keeps what
    it made of images that have changed since.
    """
    stem = f"mupl_images_{image_size or 'native'}"
    file = root / f"{stem}_{_fingerprint(root, paths)}.npy"
    with contextlib.suppress(OSError, EOFError, ValueError):  # absent or damaged: made anew
        return torch.from_numpy(np.load(file))
    images = _decode(root, paths, image_size)
    try:
        _save(images, file)
        for other in root.glob(f"{stem}_*.npy"):
            if other != file:
                other.unlink()
    except OSError as error:
        message = f"no cache of the decoded images in {root}: {_first_line(error)}"
        warnings.warn(message, stacklevel=2)
    return images


def _save(images: Tensor, file: Path) -> None:
    """Write the file under another name and rename it, so that nobody reads half of it."""
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("wb") as stream:
            np.save(stream, images.numpy())
        partial.replace(file)
    except OSError:
        # a read-only file system refuses even to remove what is not there
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _fingerprint(root: Path, paths: list[str]) -> str:
    """A hash of the files' relative paths, sizes and modification times, in order."""
    digest = hashlib.sha256()
    for path in paths:
        status = os.stat(path)
        relative = path[len(str(root)) :]
        digest.update(f"{relative}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _decode(root: Path, paths: list[str], image_size: int | None) -> Tensor:
    """Images as RGB (N, 3, H, W) uint8, decoded by threads (PIL releases the GIL)."""
    from rich.console import Console
    from rich.progress import Progress

    first = _read_image(root, paths[0], image_size)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)

    def decode_from(start: int) -> int:
        chunk = range(start, min(start + DECODED_AT_ONCE, len(paths)))
        for i in chunk:
            image = _read_image(root, paths[i], image_size)
            _check_size(root, paths[i], image, first)
            images[i] = image
        return len(chunk)

    threads = min(os.cpu_count() or 1, MAX_THREADS)
    bar = Progress(console=Console(stderr=True), transient=True)
    with bar, ThreadPoolExecutor(threads) as pool:
        task = bar.add_task("decoding images", total=len(paths))
        starts = range(0, len(paths), DECODED_AT_ONCE)
        for count in pool.map(decode_from, starts):  # in order: the first bad image is named
            bar.advance(task, count)
    return torch.from_numpy(images)


def _read_image(root: Path, path: str, image_size: int | None) -> np.ndarray:
    """The image as RGB (3, H, W) uint8, resized if a size is given."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except OSError as error:
        raise ConfigError(
            f"data.root={root}: cannot decode {os.path.relpath(path, root)} "
            f"({_first_line(error)}); replace or remove it"
        ) from error
    if image_size is not None and rgb.size != (image_size, image_size):
        rgb = rgb.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(rgb).transpose(2, 0, 1)


def _check_size(root: Path, path: str, image: np.ndarray, first: np.ndarray) -> None:
    if image.shape != first.shape:
        _, height, width = image.shape
        _, first_height, first_width = first.shape
        raise ConfigError(
            f"data.root={root}: {os.path.relpath(path, root)} is {width}x{height} "
            f"but the images before it are {first_width}x{first_height}; set data.image_size"
        )


def _split(x: Tensor, y: Tensor, num_classes: int, val_fraction: float) -> Splits:
    train, val = random_split(len(x), val_fraction, "images")
    return Splits(x[train], y[train], x[val], y[val], num_classes)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
