"""Properties of the data sources, of the order of the examples, and of the batches."""

import os
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from mupl.data import (
    Splits,
    TrainLoader,
    digits,
    epoch_order,
    image_folder,
    images,
    mnist,
)
from mupl.data.batches import CropBatches, ExampleBatches
from mupl.data.modules import TensorData
from mupl.errors import ConfigError
from mupl.training.config import build_setup
from tests.resuming import Recorder, trainer, whole_and_resumed

CONF = Path(__file__).parents[1] / "conf" / "data"
CLASSES = ("ant", "bee", "cow")


def write_images(
    folder: Path,
    per_class: int = 4,
    size: tuple[int, int] = (6, 5),
    classes: tuple[str, ...] = CLASSES,
) -> Path:
    """A folder of random PNGs, one sub-folder a class; size is (width, height)."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(
                folder / name / f"{i}.png"
            )
    return folder


def write_idx(folder: Path) -> Path:
    """A tiny data set of 20 + 10 images in MNIST's idx format."""
    folder.mkdir(parents=True)
    for prefix, n in (("train", 20), ("t10k", 10)):
        labels = bytes(i % 10 for i in range(n))
        pixels = bytes((7 * i) % 256 for i in range(n * 28 * 28))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, n, 28, 28) + pixels
        )
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, n) + labels)
    return folder


def write_cifar_batches(folder: Path) -> Path:
    """A tiny data set of 5 x 10 + 10 images in CIFAR-10's pickled format."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {
            "data": rng.integers(0, 256, (10, 3072), dtype=np.uint8),
            "labels": list(range(10)),
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [str(i) for i in range(10)]})
    )
    return folder


@pytest.fixture(autouse=True)
def forget_loaded_folders() -> Iterator[None]:
    yield
    images._image_folder.cache_clear()
    images._torchvision.cache_clear()


@pytest.fixture
def no_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes only the true CIFAR-10 files; let it take ours."""
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda path, md5=None: os.path.exists(path)
    )


def build(source: str, root: Path) -> Splits:
    """The Splits of conf/data/<source>.yaml over tiny files written to root."""
    overrides: dict[str, Any] = {} if source == "digits" else {"root": str(root)}
    if source == "mnist":
        write_idx(root / "MNIST" / "raw")
    elif source == "fashion_mnist":
        write_idx(root / "FashionMNIST" / "raw")
    elif source == "cifar10":
        write_cifar_batches(root / "cifar-10-batches-py")
    elif source == "image_folder":
        write_images(root)
    return instantiate(OmegaConf.load(CONF / f"{source}.yaml"), **overrides)


SHAPES = {
    "digits": (1438, 359, (1, 8, 8), 10),
    "mnist": (20, 10, (1, 28, 28), 10),
    "fashion_mnist": (20, 10, (1, 28, 28), 10),
    "cifar10": (50, 10, (3, 32, 32), 10),
    "image_folder": (10, 2, (3, 5, 6), 3),
}
NO_IMAGES = {"text", "tokens", "random_tokens", "table", "table_classes"}  # tested elsewhere


@pytest.mark.usefixtures("no_md5")
@pytest.mark.parametrize("source", sorted({path.stem for path in CONF.glob("*.yaml")} - NO_IMAGES))
def test_every_configured_source(source: str, tmp_path: Path) -> None:
    num_train, num_val, image, num_classes = SHAPES[source]
    splits = build(source, tmp_path)
    assert splits.train_x.shape == (num_train, *image)
    assert splits.val_x.shape == (num_val, *image)
    assert splits.train_x.is_contiguous()
    assert splits.model_args == {
        "in_channels": image[0],
        "image_size": image[1:],
        "in_features": splits.train_x[0].numel(),
        "num_classes": num_classes,
    }
    assert set(splits.train_y.tolist()) <= set(range(num_classes))

    as_val = Splits(splits.train_x, splits.train_y, splits.train_x, splits.train_y, num_classes)
    x = torch.cat([x for x, _ in as_val.val_batches(7)])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(image[0]), atol=2e-6, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(image[0]))


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        return compose("train", ["width=8", "base_width=4", *overrides])


@pytest.mark.parametrize("taken", [{}, {"num_classes": 3}])
def test_a_model_gets_what_it_takes_of_what_the_data_offer(taken: dict[str, int]) -> None:
    cfg = config("data=digits")
    cfg.model = {"_target_": "tests.models.Convolution", "_partial_": True, **taken}
    model = build_setup(cfg, digits().model_args).model
    assert model.convolution.in_channels == 1
    assert model.readout.out_features == taken.get("num_classes", 10)  # the config's own goes first


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            "gpt",
            "digits",
            "model=mupl.models.GPT: takes vocabulary and context, which these data do not have "
            "(they have in_channels, image_size, in_features and num_classes); take other data, or "
            "say +model.vocabulary=... +model.context=...",
        ),
        (
            "mlp",
            "text",
            "model=mupl.models.MLP: takes in_features and num_classes, which these data do not "
            "have (they have vocabulary and context); take other data, or say "
            "+model.in_features=... +model.num_classes=...",
        ),
    ],
)
def test_a_model_that_needs_other_data_is_one_clear_error(
    model: str, data: str, message: str
) -> None:
    cfg = config(f"model={model}", f"data={data}")
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build_setup(cfg, instantiate(cfg.data).model_args)


def test_real_mnist(real_mnist: Path) -> None:
    splits = mnist(real_mnist)
    assert splits.train_x.shape == (60000, 1, 28, 28)
    assert splits.val_x.shape == (10000, 1, 28, 28)
    assert splits.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    torch.testing.assert_close(
        splits.mean, torch.tensor([0.1307]).double(), atol=5e-5, rtol=0
    )  # as widely published
    torch.testing.assert_close(splits.std, torch.tensor([0.3081]).double(), atol=5e-5, rtol=0)
    assert mnist(str(real_mnist)) is splits  # loaded once


@pytest.mark.slow
def test_real_cifar10_images(real_data: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for folder in (real_data / "cifar10" / split).iterdir():
            (tmp_path / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:3]:
                (tmp_path / split / folder.name / image.name).symlink_to(image)
    splits = image_folder(tmp_path)
    assert splits.train_x.shape == splits.val_x.shape == (30, 3, 32, 32)
    assert splits.train_y.tolist() == sorted([*range(10)] * 3)


def test_digits_keep_their_values() -> None:
    from sklearn.datasets import load_digits

    splits = digits()
    ours = torch.cat([splits.train_x, splits.val_x]).flatten(1).double().mul(16 / 255).round()
    theirs = torch.from_numpy(load_digits().data)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))


def uint8_splits(num_train: int = 50, num_val: int = 7) -> Splits:
    """Random images, the first pixel of each being its index: a batch tells what it holds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (num_train + num_val, 2, 3, 3), generator=generator).to(torch.uint8)
    x[:, 0, 0, 0] = torch.arange(num_train + num_val)
    y = torch.arange(num_train + num_val) % 5
    return Splits(x[:num_train], y[:num_train], x[num_train:], y[num_train:], num_classes=5)


def train_loader(batch_size: int = 10, seed: int = 0) -> TrainLoader:
    return TrainLoader(uint8_splits().train_batches(batch_size, [seed]))


def indices(loader: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The examples of one epoch in their order, read from their first pixel."""
    return torch.cat([index_of(x) for x, _ in loader])


def index_of(x: Tensor) -> Tensor:
    splits = uint8_splits()
    return ((x[:, 0, 0, 0] * splits.std[0] + splits.mean[0]) * 255).round().long()


def test_statistics_are_those_of_the_whole_tensor() -> None:
    splits = uint8_splits()
    x = splits.train_x.double() / 255
    torch.testing.assert_close(splits.mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(splits.std, x.std((0, 2, 3), correction=0))


def test_constant_channel_becomes_zero() -> None:
    x = torch.full((4, 1, 2, 2), 77, dtype=torch.uint8)
    splits = Splits(x, torch.zeros(4).long(), x, torch.zeros(4).long(), num_classes=1)
    assert splits.std.item() == 1
    (batch, _), *_ = splits.val_batches(4)
    torch.testing.assert_close(batch, torch.zeros(4, 1, 2, 2))


def test_batches_are_normalised_examples() -> None:
    splits = uint8_splits()
    order = epoch_order(50, seed=1, epoch=0)
    mean = splits.mean[:, None, None]
    std = splits.std[:, None, None]
    expected = ((splits.train_x.double() / 255 - mean) / std).float()
    for i, (x, y) in enumerate(train_loader(8, seed=1)):
        rows = order[8 * i : 8 * i + 8]
        torch.testing.assert_close(x, expected[rows], atol=1e-6, rtol=0.01)
        assert torch.equal(y, splits.train_y[rows])


def test_batches_of_many_seeds_are_those_of_each_and_a_kept_batch_stays() -> None:
    splits = uint8_splits()
    seeds = [3, 1, 3]
    many = splits.train_batches(8, seeds)
    alone = [TrainLoader(splits.train_batches(8, [seed])) for seed in seeds]
    kept = []
    for k, batches in enumerate(zip(*[[*loader, *loader] for loader in alone], strict=True)):
        many.set_step(k)
        kept.append((many(), batches))
    assert len(kept) == 2 * many.per_epoch == 12
    for (x, y), batches in kept:
        assert torch.equal(x, torch.stack([x for x, _ in batches]))
        assert torch.equal(y, torch.stack([y for _, y in batches]))


def test_a_target_of_numbers_keeps_its_shape() -> None:
    """One number is (B, 1), as a model's output: (B,) beside it would broadcast to (B, B)."""
    x = torch.arange(12.0).view(6, 2)
    loader = TrainLoader(ExampleBatches(x, x.sum(1, keepdim=True), lambda rows: rows, 3, seeds=[0]))
    for rows, targets in loader:
        assert torch.equal(targets, rows.sum(1, keepdim=True))


@pytest.mark.parametrize("make", ["images", "crops"])
def test_a_batch_is_made_of_memory_that_stays_where_it_is(make: str) -> None:
    """As a captured CUDA graph needs it: `set_step` alone says what a call gives."""
    batches: Any = uint8_splits().train_batches(8, [0])
    memory = "_rows"
    if make == "crops":
        batches = CropBatches(torch.arange(500), 8, 4, [0], torch.device("cpu"))
        memory = "_crops"
    place = getattr(batches, memory).data_ptr()
    seen = []
    for k in (0, 1, batches.per_epoch, 1):
        batches.set_step(k)
        assert getattr(batches, memory).data_ptr() == place
        seen.append(batches()[0])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def orders(seed: int) -> list[list[int]]:
        return [epoch_order(100, seed, epoch).tolist() for epoch in range(3)]

    torch.manual_seed(0)
    first = orders(0)
    torch.manual_seed(1)
    assert orders(0) == first  # and of nothing else
    assert len({tuple(order) for order in first + orders(1) + orders(2)}) == 9


def test_train_epoch_has_each_example_once() -> None:
    assert sorted(indices(train_loader()).tolist()) == list(range(50))


def test_train_drops_the_incomplete_batch() -> None:
    loader = train_loader(8)
    assert [len(y) for _, y in loader] == [8] * 6
    assert len(loader) == 6


def test_iterations_differ_and_repeat_with_the_seed() -> None:
    def two_epochs(seed: int) -> list[list[int]]:
        loader = train_loader(seed=seed)
        return [indices(loader).tolist() for _ in range(2)]

    first, second = two_epochs(0)
    assert first != second
    assert two_epochs(0) == [first, second]
    assert two_epochs(1) != [first, second]


def test_a_loader_goes_on_from_a_step() -> None:
    loader = train_loader(seed=3)
    loader.load_state_dict({"step": 5 * len(loader) + 2})
    assert torch.equal(indices(loader), epoch_order(50, 3, 5)[20:])
    assert torch.equal(indices(loader), epoch_order(50, 3, 6))
    next(iter(loader))
    assert loader.state_dict() == {"step": 7 * len(loader) + 1, "micro_batches": 1}


def test_eval_is_in_order_and_keeps_the_last_batch() -> None:
    splits = uint8_splits(num_train=50, num_val=7)
    loader = splits.val_batches(3)
    assert [len(y) for _, y in loader] == [3, 3, 1]
    assert len(loader) == 3
    for _ in range(2):
        assert indices(loader).tolist() == list(range(50, 57))


def recorder() -> Recorder:
    return Recorder(lambda x: index_of(x).tolist())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)]
)
def test_lightning_sees_the_orders_of_its_epochs(precision: Any, dtype: torch.dtype) -> None:
    module = recorder()
    trainer(max_epochs=3, precision=precision).fit(
        module, TensorData(uint8_splits(), batch_size=10, seed=4)
    )
    expected = torch.stack([epoch_order(50, 4, epoch).view(5, 10) for epoch in range(3)])
    assert module.seen == expected.flatten(0, 1).tolist()
    assert module.seen_dtype == dtype
    assert module.num_val == 3 * 7


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("steps", [3, 5, 8])
def test_resumed_run_sees_the_batches_left(steps: int, tmp_path: Path) -> None:
    data = partial(TensorData, uint8_splits(), batch_size=10, seed=4)
    whole, rest = whole_and_resumed(recorder, data, tmp_path, steps, max_epochs=3)
    assert rest.seen == whole.seen[steps:]


def test_data_without_a_trainer() -> None:
    data = TensorData(uint8_splits(), batch_size=10)
    assert len(data.train_dataloader()) == 5
    assert [len(y) for _, y in data.val_dataloader()] == [7]
    assert [
        len(y) for _, y in TensorData(uint8_splits(), 10, eval_batch_size=4).val_dataloader()
    ] == [4, 3]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"batch_size": 51}, "batch_size=51: must be at most 50"),
        ({"batch_size": 5, "eval_batch_size": 0}, "eval_batch_size=0: must be at least 1"),
    ],
)
def test_wrong_batch_sizes(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        TensorData(uint8_splits(), **sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": torch.zeros(4, 1, 2, 2)}, "train_x must be uint8"),
        ({"val_y": torch.zeros(4, dtype=torch.int32)}, "val_y must be int64"),
        ({"train_y": torch.zeros(3).long()}, "train_x has 4 images but train_y has 3 labels"),
        (
            {"val_x": torch.zeros(0, 1, 2, 2).byte(), "val_y": torch.zeros(0).long()},
            "val split has no examples",
        ),
        ({"val_y": torch.tensor([0, 1, 2, 3])}, r"val_y has labels 0\.\.3, outside 0\.\.2"),
        ({"val_x": torch.zeros(4, 3, 2, 2).byte()}, "different shapes"),
    ],
)
def test_splits_that_do_not_fit(change: dict[str, Tensor], message: str) -> None:
    x, y = torch.zeros(4, 1, 2, 2).byte(), torch.zeros(4).long()
    tensors = {"train_x": x, "train_y": y, "val_x": x, "val_y": y} | change
    with pytest.raises(ValueError, match=message):
        Splits(**tensors, num_classes=3)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that PIL opened."""
    opened: list[str] = []
    original = Image.open

    def spy(path: str) -> Image.Image:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(Image, "open", spy)
    return opened


def reload(root: Path, **kwargs: Any) -> Splits:
    """image_folder as another process would call it."""
    images._image_folder.cache_clear()
    return image_folder(root, **kwargs)


def test_image_folder_reads_pixels_and_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", per_class=2)
    splits = image_folder(tmp_path)
    assert splits.train_y.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert splits.val_y.tolist() == [0, 0, 1, 1, 2, 2]
    pixels = np.asarray(Image.open(tmp_path / "train" / "bee" / "3.png"))
    assert torch.equal(splits.train_x[7].permute(1, 2, 0), torch.tensor(pixels))


def test_image_folder_split_does_not_depend_on_the_global_seed(tmp_path: Path) -> None:
    write_images(tmp_path)
    torch.manual_seed(1)
    first = image_folder(tmp_path, val_fraction=0.25)
    torch.manual_seed(2)
    second = reload(tmp_path, val_fraction=0.25)
    assert len(first.val_y) == 3
    assert torch.equal(first.train_x, second.train_x)
    assert torch.equal(first.val_y, second.val_y)


def test_image_folder_makes_grey_images_rgb(tmp_path: Path) -> None:
    write_images(tmp_path)
    Image.new("L", (6, 5), 9).save(tmp_path / "ant" / "0.png")
    splits = image_folder(tmp_path)
    assert any((x == 9).all() for x in torch.cat([splits.train_x, splits.val_x]))


def files_in(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_file()]


def caches(root: Path, size: int | str) -> list[Path]:
    return list(root.glob(f"mupl_images_{size}_*.npy"))


def test_image_folder_cache(tmp_path: Path, decoded: list[str]) -> None:
    write_images(tmp_path)
    first = image_folder(tmp_path)
    assert image_folder(str(tmp_path)) is first
    assert len(set(decoded)) == 12
    decoded.clear()
    second = reload(tmp_path)
    assert decoded == []
    assert torch.equal(first.train_x, second.train_x)
    assert len(caches(tmp_path, "native")) == len(files_in(tmp_path)) == 1


@pytest.mark.parametrize("damage", [b"", b"not a file of numpy", b"cut"])
def test_image_folder_ignores_a_damaged_cache(damage: bytes, tmp_path: Path) -> None:
    first = image_folder(write_images(tmp_path))
    (file,) = caches(tmp_path, "native")
    file.write_bytes(file.read_bytes()[:-9] if damage == b"cut" else damage)
    assert torch.equal(reload(tmp_path).train_x, first.train_x)
    assert np.load(file).shape == (12, 3, 5, 6)  # made anew


def add_image(root: Path) -> None:
    Image.new("RGB", (6, 5)).save(root / "bee" / "new.png")


def rename_image(root: Path) -> None:
    (root / "bee" / "0.png").rename(root / "bee" / "9.png")


def touch_image(root: Path) -> None:
    os.utime(root / "bee" / "0.png", (1, 1))


@pytest.mark.parametrize("change", [add_image, rename_image, touch_image])
def test_image_folder_cache_is_made_anew_on_a_change(
    change: Callable[[Path], None], tmp_path: Path, decoded: list[str]
) -> None:
    write_images(tmp_path)
    image_folder(tmp_path)
    change(tmp_path)
    before = caches(tmp_path, "native")
    decoded.clear()
    reload(tmp_path)
    assert decoded
    assert caches(tmp_path, "native") != before
    assert len(files_in(tmp_path)) == 1  # the old one is gone


def test_image_sizes_have_their_own_cache(tmp_path: Path, decoded: list[str]) -> None:
    write_images(tmp_path)
    assert image_folder(tmp_path, image_size=4).in_features == 3 * 4 * 4
    assert image_folder(tmp_path, image_size=8).in_features == 3 * 8 * 8
    decoded.clear()
    assert reload(tmp_path, image_size=4).in_features == 3 * 4 * 4
    assert decoded == []


def test_image_folder_without_cache_writes_nothing(tmp_path: Path) -> None:
    image_folder(write_images(tmp_path), cache=False)
    assert files_in(tmp_path) == []


def test_image_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)

    def refuse(path: Path, mode: str) -> None:  # what a read-only root does to anyone but root
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.warns(UserWarning, match="no cache of the decoded images") as warned:
        first, second = image_folder(tmp_path), image_folder(tmp_path)
    assert len(warned) == 1
    assert first is second
    assert len(first.train_x) == 10


def mixed_sizes(root: Path) -> None:
    write_images(root)
    Image.new("RGB", (7, 5)).save(root / "bee" / "2.png")
    Image.new("RGB", (8, 5)).save(root / "cow" / "0.png")


def broken_image(root: Path) -> None:
    write_images(root)
    (root / "bee" / "2.png").write_bytes(b"no image")


def other_classes(root: Path) -> None:
    write_images(root / "train")
    write_images(root / "val", classes=("ant", "bee", "dog"))


def one_class(root: Path) -> None:
    write_images(root / "train")


def nothing(root: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("source", "make", "kwargs", "message"),
    [
        (
            "mnist",
            nothing,
            {},
            "data.root={root}: no MNIST files there; give the folder that holds MNIST/raw",
        ),
        (
            "fashion_mnist",
            nothing,
            {},
            "data.root={root}: no FashionMNIST files there; give the folder that holds Fas",
        ),
        (
            "cifar10",
            nothing,
            {},
            "data.root={root}: no CIFAR10 files there; give the folder that holds cifar-10-",
        ),
        ("image_folder", nothing, {}, "data.root={root}: no images there"),
        (
            "image_folder",
            mixed_sizes,
            {},
            "bee/2.png is 7x5 but the images before it are 6x5; set data.image_size",
        ),
        ("image_folder", broken_image, {}, "data.root={root}: cannot decode bee/2.png"),
        (
            "image_folder",
            other_classes,
            {},
            "train and val must have the same classes; not in both: cow, dog",
        ),
        ("image_folder", one_class, {}, "data.root={root}: one class only (train)"),
        (
            "image_folder",
            write_images,
            {"image_size": 0},
            "data.image_size=0: must be at least 1 pixel",
        ),
        (
            "image_folder",
            write_images,
            {"val_fraction": 1.0},
            "data.val_fraction=1.0: must be between 0 and 1",
        ),
        (
            "image_folder",
            write_images,
            {"val_fraction": 0.01},
            "data.val_fraction=0.01: leaves one split",
        ),
    ],
)
def test_errors_are_one_line(
    source: str, make: Callable[[Path], Any], kwargs: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message.format(root=tmp_path))) as caught:
        getattr(images, source)(tmp_path, **kwargs)
    assert "\n" not in str(caught.value)


def test_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", fail)
    with pytest.raises(
        ConfigError, match=r"^data.download=true: could not get MNIST into .* \(no route to host\)$"
    ):
        mnist(tmp_path, download=True)
