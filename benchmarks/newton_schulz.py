"""Orthogonal updates: batched Newton-Schulz beside the same matrices one by one, and beside SVD.

    python benchmarks/newton_schulz.py

Compared are `COUNT` square Gaussian matrices of each size: by the five steps of Muon in bfloat16
and the eight accurate ones in float32, at once and in a loop, by torch.optim.Muon's own function in
a loop, and by a batched SVD. On CUDA where there is one, else on the CPU (some ten minutes).
"""

from collections.abc import Callable
from functools import partial

import torch
from timing import Step, add_rows, alternate, new_table, show
from torch import Tensor
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, EPS, _zeropower_via_newtonschulz

from mupl.optim.orthogonal import METHODS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# of measuring, by size; an eighth of it on a GPU
SECONDS = {256: 12.0, 512: 20.0, 1024: 40.0, 2048: 80.0}
COUNT = 6 if DEVICE == "cuda" else 2  # matrices
BASELINE = "muon, batched"


def one_by_one(method: Callable[[Tensor], Tensor]) -> Callable[[Tensor], object]:
    return lambda x: [method(matrix) for matrix in x]


def torch_muon(x: Tensor) -> Tensor:
    return _zeropower_via_newtonschulz(x, (DEFAULT_A, DEFAULT_B, DEFAULT_C), 5, EPS)


CONTESTANTS = {
    BASELINE: METHODS["muon"],
    "muon, one by one": one_by_one(METHODS["muon"]),
    "torch.optim.Muon's, one by one": one_by_one(torch_muon),
    "accurate, batched": METHODS["accurate"],
    "accurate, one by one": one_by_one(METHODS["accurate"]),
    "svd, batched": METHODS["svd"],
}


def step_of(method: Callable[[Tensor], object], size: int) -> Step:
    return partial(method, torch.randn(COUNT, size, size, device=DEVICE))


def main() -> None:
    table = new_table(f"{COUNT} matrices", DEVICE)
    for size, seconds in SECONDS.items():
        makers = {name: partial(step_of, method, size) for name, method in CONTESTANTS.items()}
        times = alternate(makers, seconds / (8 if DEVICE == "cuda" else 1), builds=1)
        add_rows(table, f"n = {size}", times, BASELINE)
    show(table)


if __name__ == "__main__":
    main()
