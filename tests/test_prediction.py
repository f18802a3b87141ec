"""What a ladder predicts: on tables whose truth is known."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mupl.analysis.bootstrap import Interval, Scatter
from mupl.analysis.certificate import (
    compare,
    coordinates_sentence,
    loss_sentence,
    regret_sentence,
    statistics,
)
from mupl.analysis.drift import TAU
from mupl.analysis.prediction import Prediction, predict
from mupl.errors import ConfigError
from mupl.report.tune import ladder_size

GRID = 2.0 ** np.arange(-12, -3)
BEST = -7.3  # log2 of the best learning rate at the smallest width
TARGET = 2048


def ladder(
    seed: int = 0,
    widths: tuple[int, ...] = (128, 256, 512),
    seeds: int = 3,
    noise: float = 0.004,
    drift: float = 0.0,
    curvature: float = 0.02,
    fall: float = 1.0,
    grid: np.ndarray = GRID,
    common: float = 0.0,
) -> pd.DataFrame:
    """Losses (1.8 + fall (FLOPs / least)^-0.3) (1 + noise) above a parabola in log2(lr).

    A seed moves all losses of a width by `common` times a normal number.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for width in widths:
        best = BEST + drift * np.log2(width / widths[0])
        loss = true_loss(width, widths[0], fall) + curvature * (np.log2(grid) - best) ** 2
        for s in range(seeds):
            noisy = loss * (1 + noise * generator.standard_normal(len(grid)))
            noisy += loss * common * generator.standard_normal() if common else 0.0
            rows += [(width, lr, s, value) for lr, value in zip(grid, noisy, strict=True)]
    table = pd.DataFrame(rows, columns=["width", "lr", "seed", "val_loss"])
    return table.assign(status="completed")


def true_loss(width: float, least: float = 128, fall: float = 1.0) -> float:
    return 1.8 + fall * (width / least) ** -0.6


def predicted(results: pd.DataFrame, target: int = TARGET) -> Prediction:
    widths = results["width"].unique()
    flops = {width: flops_of(width) for width in widths}
    return predict(results, "val_loss", "width", flops, target, flops_of(target))


def flops_of(width: float) -> float:
    return 1e9 * width**2


def lr_of(found: Prediction) -> Interval:
    [lr] = [one for one in found.recommended if one.key == "lr"]
    assert isinstance(lr.value, Interval)
    return lr.value


def test_without_noise_the_truth_is_found() -> None:
    found = predicted(ladder(noise=0, seeds=2))
    assert found.loss is not None
    assert found.law is not None
    assert lr_of(found).value == pytest.approx(2**BEST)
    grid_loss = 0.02 * (BEST + 7) ** 2  # the best value tried is not the best one
    assert found.loss.value == pytest.approx(true_loss(TARGET) + grid_loss)
    assert found.law.power == pytest.approx(0.3)
    assert found.warnings == []


def test_a_drift_is_followed_to_the_target() -> None:
    found = predicted(ladder(noise=1e-4, drift=-0.5))
    assert lr_of(found).value == pytest.approx(2 ** (BEST - 0.5 * 4), rel=0.05)
    assert any("drifts by -0.50 octaves a doubling of width" in text for text in found.warnings)


def test_a_drift_that_may_be_chance_is_hardly_followed() -> None:
    found = predicted(ladder(noise=0.012, drift=-0.1))
    [lr] = found.recommended
    assert lr.drift is not None
    assert 0 in lr.drift
    octaves = np.log2([value.value for value in lr.optima.values()])
    followed = np.log2(lr_of(found).value) - octaves.mean()
    assert 0 < followed / (3 * lr.drift.value) < 0.2  # the target is 3 octaves from the middle
    assert not any("drifts" in text for text in found.warnings)


def test_what_a_recommended_value_may_cost_at_the_target_is_predicted() -> None:
    found = predicted(ladder(noise=1e-3))
    octaves = np.log2(lr_of(found).high / lr_of(found).value)
    [lr] = found.recommended
    assert lr.target_regret == pytest.approx(0.02 * octaves**2, rel=0.1)  # the curves' parabola


def test_one_size_says_how_far_an_optimum_may_drift() -> None:
    near, far = (lr_of(predicted(ladder(widths=(128,)), target)) for target in (128, 2048))
    assert near.value == far.value
    assert far.high / far.low > 2 * near.high / near.low


def coverage(runs: int, drift: float | None) -> tuple[float, float]:
    """How often the intervals hold the best learning rate, and the loss of a run of the target.

    A drift of None is drawn from the prior.
    """
    rates, losses = [], []
    for seed in range(runs):
        generator = np.random.default_rng(10_000 + seed)
        drifts = TAU * generator.standard_normal() if drift is None else drift
        found = predicted(ladder(seed, drift=drifts))
        one_run = true_loss(TARGET) * (1 + 0.004 * generator.standard_normal())
        assert found.loss is not None
        rates.append(2 ** (BEST + 4 * drifts) in lr_of(found))
        losses.append(one_run in found.loss)
    return float(np.mean(rates)), float(np.mean(losses))


def test_intervals_hold_the_truth() -> None:
    of_rates, of_losses = coverage(30, drift=0.0)
    assert of_rates >= 0.8
    assert of_losses >= 0.8


COMMON = 0.02  # by which a seed moves a whole curve; what tells settings apart is 0.004


def optima_of(results: pd.DataFrame) -> pd.DataFrame:
    """The interval of the optimum of each width: its width in octaves, and if it holds the best."""
    [lr] = predicted(results).recommended
    rows = []
    for best in lr.optima.values():
        rows.append((np.log2(best.high / best.low), 2**BEST in best))
    return pd.DataFrame(rows, columns=["octaves", "holds"])


def unpaired(results: pd.DataFrame) -> pd.DataFrame:
    """Give each setting seeds of its own, so that nothing is known of which runs share what."""
    return results.assign(seed=range(len(results)))


def test_what_a_seed_does_to_all_learning_rates_does_not_move_the_optimum() -> None:
    results = ladder(common=COMMON)
    scatter = Scatter.of(results, "val_loss", ["width", "lr"])
    assert scatter.paired == pytest.approx(0.004, rel=0.3)
    assert scatter.run > 3 * scatter.paired
    assert scatter.paired_freedom < scatter.freedom
    alone = Scatter.of(unpaired(results), "val_loss", ["width", "lr"])
    assert alone.paired == alone.run == scatter.run
    paired, wide = optima_of(results), optima_of(unpaired(results))
    assert (paired["octaves"] < wide["octaves"] / 3).all()
    assert paired["holds"].all()
    # the loss of one run scatters as before
    of_loss, of_unpaired = predicted(results).loss, predicted(unpaired(results)).loss
    assert of_loss is not None
    assert of_unpaired is not None
    widths = [one.high - one.low for one in (of_loss, of_unpaired)]
    assert widths[0] == pytest.approx(widths[1], rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("common", [0.0, COMMON])
def test_intervals_of_optima_hold_the_truth_as_often_as_they_say(common: float) -> None:
    ladders = [ladder(seed, common=common) for seed in range(150)]
    found = pd.concat(map(optima_of, ladders))
    wide = pd.concat([optima_of(unpaired(results)) for results in ladders[:20]])
    octaves = [table["octaves"].median() for table in (found, wide)]
    print(f"common {common}: {found['holds'].mean():.1%}, {octaves[0]:.2f} octaves")
    print(f"  seeds of each setting alone: {wide['holds'].mean():.1%}, {octaves[1]:.2f} octaves")
    assert 0.91 <= found["holds"].mean() <= 0.98


DRIFTS = {"as expected": None, "down": -0.3, "none": 0.0, "up": 0.3}


@pytest.mark.slow
@pytest.mark.parametrize("case", DRIFTS)
def test_intervals_hold_the_truth_as_often_as_they_say(case: str) -> None:
    of_rates, of_losses = coverage(200, DRIFTS[case])
    print(f"drift {case}: learning rate {of_rates:.1%}, loss {of_losses:.1%}")
    least = 0.89 if DRIFTS[case] in (None, 0.0) else 0.85
    assert least <= of_rates <= 0.99
    assert 0.91 <= of_losses <= 0.99


WARNED = {
    "edge": (ladder(grid=GRID[6:]), TARGET, "lies at the edge of the grid at width 128, 256, 512"),
    "plateau": (ladder(curvature=0.5), TARGET, "no plateau of lr at width 128, 256, 512"),
    "seeds": (ladder(seeds=1), TARGET, "one seed: no interval is known"),
    "sizes": (ladder(widths=(128, 256)), 512, "2 sizes: no law of the loss, which needs 3"),
    "rising": (ladder(fall=-0.5), TARGET, "the best loss does not fall along the ladder"),
    "far": (ladder(), 4096, "the target is 8 times the largest width of the ladder"),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_makes_a_prediction_unsure_is_said(case: str) -> None:
    results, target, text = WARNED[case]
    found = predicted(results, target)
    assert any(text in said for said in found.warnings), found.warnings
    calm = predicted(ladder())
    assert not any(text in said for said in calm.warnings)
    if case in ("sizes", "rising"):
        assert found.loss is None


def test_an_optimum_whose_neighbours_were_dropped_lies_within_half_a_step() -> None:
    results = ladder(noise=1e-5)
    results["status"] = results["lr"].eq(2.0**-7).map({True: "completed", False: "dropped"})
    [lr] = predicted(results).recommended
    for best in lr.optima.values():
        assert best.value == 2.0**-7
        assert np.log2([best.low, best.high]) == pytest.approx([-7.5, -6.5], abs=0.1)


def test_other_hyperparameters_have_their_own_optimum() -> None:
    parts = []
    for decay in (0.05, 0.1, 0.2):
        shift = 0.05 * np.log2(decay / 0.1) ** 2
        parts.append(
            ladder(noise=1e-4).assign(weight_decay=decay).eval(f"val_loss = val_loss + {shift}")
        )
    found = predicted(pd.concat(parts, ignore_index=True))
    by_key = {one.key: one for one in found.recommended}
    assert by_key["weight_decay"].plain == pytest.approx(0.1, rel=0.02)
    assert by_key["lr"].plain == pytest.approx(2**BEST, rel=0.02)


def test_a_choice_is_that_of_the_best_setting() -> None:
    linear = ladder(noise=1e-4).assign(scheduler="linear")
    cosine = linear.assign(scheduler="cosine", val_loss=linear["val_loss"] + 0.1)
    found = predicted(pd.concat([linear, cosine], ignore_index=True))
    by_key = {one.key: one for one in found.recommended}
    assert by_key["scheduler"].plain == "linear"
    assert by_key["scheduler"].regret == pytest.approx(0, abs=1e-3)


def test_drawn_settings_are_recommended_as_a_whole() -> None:
    generator = np.random.default_rng(0)
    rates, decays = 2.0 ** generator.uniform(-12, -3, 24), 2.0 ** generator.uniform(-6, 0, 24)
    rows = []
    for width in (128, 256, 512):
        for lr, decay in zip(rates, decays, strict=True):
            loss = true_loss(width) + 0.02 * (np.log2(lr * decay) - BEST) ** 2
            rows += [(width, lr, decay, seed, loss + 1e-4 * seed) for seed in (0, 1)]
    columns = ["width", "lr", "weight_decay", "seed", "val_loss"]
    results = pd.DataFrame(rows, columns=columns).assign(status="completed")
    best = results[results["width"] == 512].sort_values("val_loss").iloc[0]
    by_key = {one.key: one for one in predicted(results).recommended}
    for key in ("lr", "weight_decay"):
        assert by_key[key].plain == pytest.approx(best[key], rel=1e-3)
        assert by_key[key].drift is None


def test_drawn_settings_may_be_tried_at_a_grid_of_another_key() -> None:
    parts = []
    drawn = [(1.0, 0.5), (0.7, 2.0), (1.6, 1.0), (2.0, 0.7)]
    for place, (mult, factor) in enumerate(drawn):
        lost = 0.1 * (place != 2)
        part = ladder(noise=1e-4).assign(**{"model.output_mult": mult, "tune.hidden.lr": factor})
        parts.append(part.assign(val_loss=part["val_loss"] + lost))
    by_key = {one.key: one for one in predicted(pd.concat(parts, ignore_index=True)).recommended}
    assert (by_key["model.output_mult"].plain, by_key["tune.hidden.lr"].plain) == (1.6, 1.0)
    assert by_key["lr"].plain == pytest.approx(2**BEST, rel=0.02)


def test_a_size_of_which_all_diverged_is_refused() -> None:
    results = ladder()
    results.loc[results["width"] == 256, "status"] = "diverged"
    with pytest.raises(ConfigError, match="width 256: no setting gave a finite loss"):
        predicted(results)


def test_sizes_that_are_swept_one_against_the_other_are_no_ladder() -> None:
    crossed = pd.DataFrame({"width": [8, 8, 16, 16], "depth": [1, 2, 1, 2]})
    with pytest.raises(ConfigError, match="width and depth: are swept one against the other"):
        ladder_size(crossed)


def rows_of(width: int, update: float = 0.1, **changed: Any) -> pd.DataFrame:
    """What a recorder leaves of a run whose outputs stay and whose weights fall as width^-1/2."""
    values = {"output": 1.0, "param": width**-0.5, "update": update * width**-0.5}
    table = pd.DataFrame({"kind": list(values), "value": list(values.values())})
    names = {"output": "blocks.0.up", "param": "blocks.0.up.weight", "update": "blocks.0.up.weight"}
    return table.assign(
        name=table["kind"].map(names), width=width, seed=0, t=1, statistic="rms", **changed
    )


@pytest.mark.parametrize(("update", "same"), [(0.1, 2), (0.4, 1)])
def test_a_run_is_compared_with_what_the_proxies_say_of_its_width(update: float, same: int) -> None:
    proxies = statistics(pd.concat([rows_of(8), rows_of(16), rows_of(32)]))
    compared = compare(proxies, statistics(rows_of(128, update)), 128)
    assert compared["same"].sum() == same
    said = coordinates_sentence(compared)
    assert said.startswith(f"{same} of 2 outputs and relative updates as in the proxies")
    if same == 1:
        assert "relative update blocks.*.up.weight, t = 1, by a factor 4.00" in said


def test_a_certificate_says_whether_the_loss_was_predicted() -> None:
    interval = Interval(2.0, 1.9, 2.1)
    assert "inside the interval" in loss_sentence(interval, 1.95, "val_loss")
    assert "better than the interval" in loss_sentence(interval, 1.8, "val_loss")
    assert "worse than the interval" in loss_sentence(interval, 2.2, "val_loss")
    assert "worse than the interval" in loss_sentence(interval, float("nan"), "val_loss")
    assert "the ladder predicted none" in loss_sentence(None, 2.0, "val_loss")


@pytest.mark.parametrize(
    ("loss", "regret", "within", "text"),
    [
        (2.1, 0.0, True, "the recommended run is the best of 2: val_loss 2"),
        (1.9, 0.2, True, "loses 0.1 to lr=2, the best of 2: within the predicted 0.2"),
        (1.9, 0.05, False, "loses 0.1 to lr=2, the best of 2: more than the predicted 0.05"),
        (1.9, float("nan"), None, "loses 0.1 to lr=2, the best of 2; the ladder predicted no"),
    ],
)
def test_a_recommended_run_is_compared_with_others(
    loss: float, regret: float, within: bool | None, text: str
) -> None:
    runs = pd.DataFrame({"run": ["lr=1", "lr=2"], "recommended": [True, False]})
    runs["val_loss"] = [2.0, loss]
    found = regret_sentence(runs, "val_loss", regret, scatter=0.001)
    assert text in found[0]
    assert found[1] is within
