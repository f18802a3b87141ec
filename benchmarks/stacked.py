"""Training steps of a stack beside a plain PyTorch loop that trains its members one at a time.

    python benchmarks/stacked.py  # on CUDA where there is it: TF32, batch 128, 3072-w-w-10
    OMP_NUM_THREADS=2 python benchmarks/stacked.py cpu  # batch 64, 784-w-w-10

The plain loop draws a batch by index_select, has a fused Adam and no synchronisation; it trains one
member (they are all equal in time). "graph" is the same step captured as a CUDA graph. The fraction
of the memory bandwidth counts 40 bytes a parameter and step: weights read twice, gradients written
and read, weights and both moments read and written.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import Step, add_rows, alternate, new_table, print_speed_up, show

from mupl.data import Splits, TrainLoader
from mupl.models import MLP
from mupl.stacked.stack import Stack
from mupl.training.setup import Setup

STEPS = 10_000  # more than are timed
CUDA = {64: (192, 250), 256: (192, 80), 1024: (64, 16), 4096: (13, 2.5)}  # width: members, target
CPU = {4: (45, 12), 16: (45, 4), 64: (45, 1.5), 256: (9, 1.0)}


def images(channels: int, size: int, count: int = 50_000) -> Splits:
    """Noise of the shape of a data set: what it shows does not matter for the time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    y = torch.randint(10, (count,), generator=generator)
    return Splits(x, y, x[:1000], y[:1000], 10)


def plain(splits: Splits, width: int, batch: int, device: str) -> Callable[[], object]:
    model = MLP(splits.in_features, 10, width, depth=2).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    loader = TrainLoader(splits.train_batches(batch, [0], torch.device(device)))
    batches = iter(())

    def step() -> None:
        nonlocal batches
        found = next(batches, None)
        if found is None:
            batches = iter(loader)
            found = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(found[0]), found[1]).backward()
        optimizer.step()

    return step


def graph(splits: Splits, width: int, batch: int, device: str) -> Callable[[], object]:
    """One member as a captured graph: a stack of one, but with torch's own fused optimizer."""
    model = MLP(splits.in_features, 10, width, depth=2).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True, capturable=True)
    x, y = splits.train_x.to(device), splits.train_y.to(device)
    rows = torch.randperm(len(x), device=device)[: len(x) // batch * batch].view(-1, batch)
    k = torch.zeros(1, dtype=torch.int64, device=device)

    def once() -> None:
        chosen = rows.index_select(0, k % len(rows))[0]
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen].float().mul_(0.01).sub_(1)), y[chosen]).backward()
        optimizer.step()
        k.add_(1)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        once()
    captured.inputs = once  # keeps alive what the graph reads
    return captured.replay


def stacked(
    splits: Splits, width: int, batch: int, device: str, members: int
) -> Callable[[], object]:
    with torch.device("meta"):
        setups = [
            Setup(
                partial(MLP, splits.in_features, 10, depth=2),
                width,
                base_width=32,
                lr=1e-4 * (1 + i),
                optimizer="adam",
                parametrization="mup" if i % 2 else "sp",
            )
            for i in range(members)
        ]
    stack = Stack(setups, splits, batch_size=batch, max_steps=STEPS, device=device)
    stack.train(5)
    return lambda: stack.train(stack.k + 1)


def bandwidth() -> float:
    """Bytes a second of `y += x` on 2 GB."""
    x, y = (torch.zeros(2**28, device="cuda") for _ in range(2))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    y.add_(x)
    events[0].record()
    for _ in range(20):
        y.add_(x)
    events[1].record()
    torch.cuda.synchronize()
    return 20 * 3 * 4 * len(x) / (events[0].elapsed_time(events[1]) / 1000)


def main(device: str) -> None:
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        limit = bandwidth()
        print(f"{torch.cuda.get_device_name()}: {limit / 1e12:.2f} TB/s")
        splits, batch, sizes = images(3, 32), 128, CUDA
    else:
        splits, batch, sizes = images(1, 28, 20_000), 64, CPU
    table = new_table(
        f"Training steps, {'TF32, ' if device == 'cuda' else ''}batch {batch}", device
    )
    for width, (members, target) in sizes.items():
        run = splits, width, batch, device
        makers: dict[str, Callable[[], Step]] = {"plain": partial(plain, *run)}
        if device == "cuda":
            makers |= {"graph": partial(graph, *run), "stack": partial(stacked, *run, members)}
            times = alternate(makers, 8, builds=1, queue=20)
        else:
            makers |= {"stack": partial(stacked, *run, members)}
            times = alternate(makers, 10, builds=2)
        add_rows(table, f"width {width}, {members} members", times, "stack")
        print_speed_up(times, width, members, target)
        if device == "cuda":
            parameters = width * (3072 + width + 10) + 2 * width + 10
            fraction = 40 * parameters * members / statistics.median(times["stack"]) / limit
            print(f"width {width}: {fraction:.2f} of the bandwidth", flush=True)
            torch.cuda.empty_cache()
    show(table)


if __name__ == "__main__":
    main("cuda" if torch.cuda.is_available() and sys.argv[1:] != ["cpu"] else "cpu")
