"""Results that are damaged, of other versions, or cannot be written."""

import errno
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mupl import files
from mupl.errors import ConfigError, disk_error
from mupl.files import delete_stale_partials, write_atomically
from mupl.identity import fingerprints, finished, finished_jobs, provenance, read_result
from mupl.identity.fingerprints import path_digest, source_digest
from mupl.identity.provenance import changes, differences
from mupl.identity.results import read_results, write_result
from mupl.sweep.results import collect
from tests.commands import IGNORED, SMALL, row_of, train_here

pytestmark = IGNORED


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Forget what this process knows of code and data, as a new one would."""
    forget()


def forget() -> None:
    cached = (source_digest, fingerprints._path_digest, fingerprints._spec_path,
              fingerprints.package_of, provenance._part_of, provenance._version)  # fmt: skip
    for function in cached:
        function.cache_clear()


WHOLE = row_of("a", val_loss=0.25)

DAMAGED: dict[str, Any] = {
    "empty": "",
    "cut": json.dumps(WHOLE)[:-9],
    "garbage": b"\x80\x81\x00",
    "a list": [WHOLE],
    "a number": 3,
    "nested": "[" * 100_000,
    "no entries": {},
    "no job": {key: value for key, value in WHOLE.items() if key != "job"},
    "no status": {key: value for key, value in WHOLE.items() if key != "status"},
    "unknown status": WHOLE | {"status": "done"},
    "text for a loss": WHOLE | {"val_loss": "low"},
    "true for a loss": WHOLE | {"val_loss": True},
    "negative steps": WHOLE | {"steps": -1},
    "no steps": {key: value for key, value in WHOLE.items() if key != "steps"},
    "completed without a loss": WHOLE | {"train_loss": None},
    "failed without an error": {"job": "a", "status": "failed"},
    "another checksum": WHOLE | {"checksum": "0" * 16},
}


def damage(folder: Path, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "result.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_result_is_one_line_and_set_aside(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = damage(tmp_path / "a", DAMAGED[name])
    assert finished(tmp_path / "a", "a", "missing") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {file} is damaged (")
    assert line.endswith("set aside as result.json.damaged; the same command runs the job again")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result.json.damaged"]
    assert finished(tmp_path / "a", "a", "missing") is None
    assert capsys.readouterr().err == ""
    assert read_results(tmp_path) == []
    assert "result.json.damaged is damaged and was set aside" in capsys.readouterr().err


def test_a_folder_in_place_of_a_result_is_set_aside_beside_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "result.json" / "x").mkdir(parents=True)
    (tmp_path / "result.json.damaged").touch()
    assert read_result(tmp_path / "result.json") is None
    assert (tmp_path / "result.json.damaged2" / "x").is_dir()


def test_any_changed_value_of_a_result_is_seen(tmp_path: Path) -> None:
    write_result(tmp_path, WHOLE)
    file = tmp_path / "result.json"
    assert read_result(file) == WHOLE
    file.write_text(file.read_text().replace("0.25", "0.35"))
    assert read_result(file) is None


def test_a_result_is_json_that_any_program_reads(tmp_path: Path) -> None:
    row = row_of("a", val_loss=math.nan, val_accuracy=math.inf, status="diverged")
    write_result(tmp_path, row | {"config": {"x": math.nan, "y": [math.inf]}})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    text = (tmp_path / "result.json").read_text()
    assert json.loads(text, parse_constant=refuse)["config"] == {"x": None, "y": ["Infinity"]}
    read = read_result(tmp_path / "result.json")
    assert read is not None
    assert math.isnan(read["val_loss"])
    assert read["val_accuracy"] == math.inf


def test_a_report_leaves_out_what_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path / "good", WHOLE)
    damage(tmp_path / "bad", "")
    assert collect(tmp_path)["folder"].tolist() == ["good"]
    assert capsys.readouterr().err.count("\n") == 1


# What results were made by


def made_by(**parts: dict[str, str]) -> dict[str, Any]:
    versions = {"python": provenance._version("python")}
    made: dict[str, Any] = {"packages": versions, "sources": {}, "data": {}}
    for part, entries in parts.items():
        made[part] = made[part] | entries
    return made


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules of the user's own: a model, the layers that it imports, and another."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").touch()
    (tmp_path / "own_package" / "layers.py").write_text("SIZE = 1\n")
    (tmp_path / "own_package" / "other.py").write_text("SIZE = 1\n")
    (tmp_path / "own_model.py").write_text(
        'from own_package import layers\n\n\nclass MyNet:\n    """Nets."""\n\n    x = layers.SIZE\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_loss", raising=False)  # of a test before this one
    return tmp_path


def test_code_counts_and_comments_do_not(own_code: Path) -> None:
    model, layers = own_code / "own_model.py", own_code / "own_package" / "layers.py"
    earlier = made_by(sources={"own_model.MyNet": source_digest("own_model.MyNet")})

    def after(file: Path, text: str) -> list[str]:
        file.write_text(text)
        forget()
        return changes(earlier)

    whole = model.read_text()
    assert after(model, "# why\n" + whole.replace('"""Nets."""', '"""\n    A net."""')) == []
    assert after(own_code / "own_package" / "other.py", "SIZE = 2\n") == []
    assert after(layers, "SIZE = 2\n") == ["own_model.MyNet (source)"]
    assert after(layers, "SIZE = 1  # again\n") == []
    assert after(model, whole.replace("SIZE", "SIZE + 1")) == ["own_model.MyNet (source)"]


def test_code_of_another_python_is_not_compared(own_code: Path) -> None:
    earlier = made_by(sources={"own_model.MyNet": "0"}, packages={"python": "3.9.1"})
    (change,) = changes(earlier)
    assert change.startswith("python 3.9 (now 3.")


def test_packages_count_by_their_first_two_numbers() -> None:
    now = provenance._version("torch")
    first, second, *_ = now.split(".")
    assert changes(made_by(packages={"torch": f"{first}.{second}.99+cu1"})) == []
    (change,) = changes(made_by(packages={"torch": "1.13.1"}))
    assert change == f"torch 1.13 (now {first}.{second})"


def test_data_count_by_their_contents_where_they_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, folder = tmp_path / "text.txt", tmp_path / "images"
    text.write_text("one")
    (folder / "cats").mkdir(parents=True)
    (folder / "cats" / "1.jpg").write_text("cat")
    labels = [f"data.file={text}", f"data.root={folder}"]
    earlier = made_by(data={label: provenance._data_digest(label) for label in labels})
    os.utime(text, (1, 1))
    (folder / "mupl_images_8_0.npy").touch()  # mupl's own cache
    forget()
    assert changes(earlier) == []
    text.write_text("two")
    (folder / "cats" / "2.jpg").write_text("cat")
    forget()
    assert changes(earlier) == [f"{label} (contents)" for label in labels]
    monkeypatch.setattr(fingerprints, "READ_AT_MOST", 2)
    forget()
    before = path_digest(str(text))
    os.utime(text, (2, 2))
    forget()
    assert path_digest(str(text)) != before
    monkeypatch.chdir(folder)
    forget()
    assert path_digest(str(tmp_path)) == ""  # holds the working folder, where outputs lie


def test_a_row_records_what_trains_it_and_the_text_that_it_reads() -> None:
    plain = {
        "model": {"_target_": "tests.models.Convolution"},
        "loss": "torch.nn.functional.mse_loss",
        "callbacks": {"coordinates": {"_target_": "mupl.stats.callback.CoordinateStats"}},
        "data": {"_target_": "mupl.data.read_text", "file": None, "level": "byte"},
    }
    made = provenance.provenance(plain, rooms=["stacked"])
    assert set(made["packages"]) == {"python", "torch"}
    assert {"tests.models.Convolution", "mupl.optim", "mupl.stats", "mupl.stacked"} < set(
        made["sources"]
    )
    assert made["data"] == {"data.file=None": provenance._version("python")}
    assert changes(json.loads(json.dumps(made))) == []


OTHER = made_by(sources={"my_model.MyNet": "0"})


def test_results_of_another_version_are_refused_kept_or_trained_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"a": OTHER, "b": made_by(), "c": OTHER, "d": None}
    for job, by in made.items():
        write_result(tmp_path / job, row_of(job) | ({"provenance": by} if by else {}))

    def run(rerun: str | None) -> list[str]:
        names = [*made, "missing"]
        rows = finished_jobs([(tmp_path / job, job, rerun) for job in names])
        return [job for job, row in zip(names, rows, strict=True) if row is None]

    with pytest.raises(ConfigError) as refusal:
        run("missing")
    assert str(refusal.value) == (
        "3 of 5 jobs were done before with another version of my_model.MyNet (source) and mupl (an "
        "earlier one, which recorded no versions): say rerun=changed to train what changed anew, "
        "or rerun=keep to keep the results"
    )
    with pytest.raises(ConfigError, match="this job was done before with another version of my"):
        finished(tmp_path / "a", "a", "missing")
    assert run("changed") == ["a", "c", "d", "missing"]
    assert run("all") == [*made, "missing"]
    assert run(None) == ["missing"]
    assert capsys.readouterr().out == ""
    assert run("keep") == ["missing"]
    said = capsys.readouterr().out
    assert "results of another version of my_model.MyNet (source) are kept\n" in said
    assert collect(tmp_path)["folder"].tolist() == [*"abcd"]
    assert capsys.readouterr().out == (
        "warning: rows come from different versions: mupl (an earlier one, which recorded no "
        "versions)\n"
    )


def test_failed_jobs_of_another_version_are_trained_anew_without_a_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"broken": made_by(sources={"my_data.read": "0"}), "same": made_by()}
    failed = {"status": "failed", "error": "KeyError: 'x'"}
    for job, by in made.items():
        write_result(tmp_path / job, row_of(job, **failed, provenance=by))

    def runs(rerun: str) -> list[str]:
        rows = finished_jobs([(tmp_path / job, job, rerun) for job in made])
        return [job for job, row in zip(made, rows, strict=True) if row is None]

    assert runs("missing") == ["broken"]
    line = "jobs that failed with another version of my_data.read (source) are trained anew\n"
    assert capsys.readouterr().out == line
    assert runs("keep") == []
    assert runs("changed") == ["broken"]
    assert runs("failed") == ["broken", "same"]
    write_result(tmp_path / "done", row_of("done", provenance=OTHER))
    made["done"] = OTHER
    with pytest.raises(ConfigError, match="1 of 3 jobs were done before"):
        runs("missing")


def test_a_table_says_in_what_its_rows_differ() -> None:
    rows = [made_by(packages={"torch": version}) for version in ("2.11.0", "2.14.1", "2.11.3")]
    assert differences(rows) == ["torch 2.11 and 2.14"]
    assert differences(rows[:1] + rows[2:]) == []
    assert differences([None, None]) == []
    assert differences([made_by() | {"accelerator": name} for name in ("cpu", "gpu")]) == [
        "accelerator cpu and gpu"
    ]


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_sweep_of_changed_code_refuses_before_it_trains(
    launcher: str, own_code: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loss = own_code / "own_loss.py"
    loss.write_text("from mupl.training.setup import cross_entropy as mine\n")
    grid = ["width=8", "seed=0,1", "max_steps=2", "loss=own_loss.mine"]
    folder = tmp_path / "sweep"
    table = "hydra.callbacks.sweep_report.report=tests.commands.table_only"
    arguments = ["-m", *SMALL, *grid, table, f"hydra/launcher={launcher}",
                 f"hydra.sweep.dir={folder}"]  # fmt: skip
    assert train_here(capfd, *arguments).returncode == 0
    before = {file: file.read_text() for file in folder.glob("*/result.json")}
    assert len(before) == 2
    made = json.loads(next(iter(before.values())))["provenance"]["sources"]
    assert ("mupl.stacked" in made) is (launcher == "stacked")
    loss.write_text("from mupl.training.setup import cross_entropy as mine\nTWO = 2\n")
    forget()
    done = train_here(capfd, *arguments, "seed=0,1,2")
    assert done.returncode == 1
    jobs = "this job was" if launcher == "basic" else "2 of 3 jobs were"
    assert done.stderr.startswith(
        f"error: {jobs} done before with another version of own_loss.mine (source): say rerun="
    )
    assert done.stderr.count("\n") == 1
    assert {file: file.read_text() for file in folder.glob("*/result.json")} == before
    again = train_here(capfd, *arguments, "rerun=changed")
    assert again.returncode == 0, again.stderr
    assert "were done before" not in again.stdout
    assert "2 of 2 jobs were done before" in train_here(capfd, *arguments).stdout


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_sweep_whose_broken_code_was_mended_goes_on(
    launcher: str, own_code: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"mended_{launcher}"  # of a module that nothing imported before
    loss = own_code / f"{name}.py"
    good = "from mupl.training.setup import cross_entropy as mine\n"
    # not seen by the look at a few examples before a sweep
    broken = f"{good}LOSS = mine\ndef mine(output, target):\n    assert len(output) < 9\n"
    loss.write_text(f"{broken}    return LOSS(output, target)\n")
    table = "hydra.callbacks.sweep_report.report=tests.commands.table_only"
    arguments = ["-m", *SMALL, "width=8", "seed=0,1", "max_steps=2", f"loss={name}.mine", table,
                 f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]  # fmt: skip
    assert "2 failed" in train_here(capfd, *arguments).stdout
    assert "2 of 2 jobs were done before" in train_here(capfd, *arguments).stdout
    loss.write_text(good)
    sys.modules.pop(name)
    forget()
    done = train_here(capfd, *arguments)
    assert done.returncode == 0, done.stderr
    line = f"jobs that failed with another version of {name}.mine (source) are trained anew"
    assert done.stdout.count(line) == 1
    assert "2 completed in" in done.stdout


# What cannot be written


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_write_that_fails_leaves_nothing_and_names_its_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "x", "old")

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[:1])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match=os.strerror(number)) as failure:
        write_atomically(tmp_path / "x", "new")
    assert failure.value.filename == str(tmp_path / "x")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_what_a_killed_process_left_is_deleted_when_its_job_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "is_running", lambda process: process == 7)
    for name in (".result.json.6", ".result.json.7", ".hydra", ".x.y", "result.json.6"):
        (tmp_path / name).touch()
    assert finished(tmp_path, "a", "missing") is None
    assert not (tmp_path / ".result.json.6").exists()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_process_that_runs_is_known() -> None:
    assert files.is_running(os.getpid())
    assert not files.is_running(2**22 + 1)  # above the largest number of a process
    delete_stale_partials(Path("nowhere"))


def test_a_disk_error_is_found_behind_others() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RuntimeError) as failure:
        raise RuntimeError("while saving") from full
    assert disk_error(failure.value) is full
    assert disk_error(FileNotFoundError(errno.ENOENT, "no such file")) is None


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_full_disk_is_one_clear_line(
    mode: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if ".parametrization" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    folders = [f"hydra.run.dir={tmp_path}/x", f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=x"]
    done = train_here(capfd, *mode, *SMALL, "width=8", *folders)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path}/x/parametrization.csv: No space left on device; what is done is kept, "
        "and the same command goes on once there can be written\n"
    )
    assert not (tmp_path / "x" / "result.json").exists()


def test_a_disk_that_is_full_before_a_job_starts_is_named_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hydra.core.utils._save_config", full)
    done = train_here(capfd, "-m", *SMALL, "width=8", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/")
    assert ": No space left on device; what is done is kept" in done.stderr
    assert done.stderr.count("\n") == 1
