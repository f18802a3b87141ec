"""Each candidate of benchmarks/stacked_gpt_variants.py trains as the step as it is."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpt_candidates  # noqa: E402
import stacked_gpt_variants as variants  # noqa: E402

TOLERANCES = {"stream": 1e-3}  # of the losses: its numbers have eight bits; all else is float32
SIZE = variants.TINY._replace(depth=1, context=16)
JOINED = [
    "both+folded+onehot+split+copies+whole",
    "flip+folded+loss_parts+edges+one_update",
]


@pytest.fixture
def _uninduced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`torch.compile` without Inductor, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@cache
def expected() -> Tensor:
    return variants.first_losses(variants.new_stack(32, SIZE), SIZE.compared)


@pytest.mark.slow
@pytest.mark.usefixtures("_uninduced")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which torch.compile looks at
@pytest.mark.parametrize("name", [*gpt_candidates.CANDIDATES, *JOINED])
def test_a_candidate_trains_as_the_step_as_it_is(name: str) -> None:
    way = gpt_candidates.way_of(name)
    if way.cuda_only:
        pytest.skip(f"needs a GPU: {way.cuda_only}")
    if way.attention == "triton":
        pytest.skip("read by Triton's interpreter in a process of its own, below")
    with gpt_candidates.settings(way):
        stack = variants.new_stack(32, SIZE)
        gpt_candidates.change(stack, way)
        losses = variants.first_losses(stack, SIZE.compared)
    tolerance = TOLERANCES.get(name, 1e-5)
    torch.testing.assert_close(losses, expected(), rtol=tolerance, atol=0)


@pytest.mark.slow
def test_the_table_has_a_row_of_each_candidate_also_of_those_that_fail(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "stacked_gpt_variants.py"), str(tmp_path)]
    command += ["triton", "flex", "--tiny", "--seconds", "0.1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    with (tmp_path / "results.csv").open() as file:
        rows = {row["candidate"]: row for row in csv.DictReader(file)}
    assert "skipped on a CPU" in rows["flex"]["note"]
    if "only 0-dimensional arrays" in rows["triton"]["note"]:
        pytest.skip("the interpreter of this triton needs an older numpy")
    assert float(rows["triton"]["deviation"]) < 1e-5, done.stdout
    assert (tmp_path / "kernels_32_triton.txt").exists()


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import os; os.abort()", "failed: ended by SIGABRT"),
        ("import time; time.sleep(60)", "no result within 0 s"),
        ("raise ValueError('no such kernel')", "failed: ValueError: no such kernel"),
        ("""print('RESULT {"note": "done"}')""", "done"),
    ],
)
def test_a_process_that_fails_has_a_note(code: str, note: str) -> None:
    limit = 0.3 if "sleep" in code else 60
    found = variants.run([sys.executable, "-S", "-c", code], gpu=0, limit=limit)
    assert found["note"] == note
