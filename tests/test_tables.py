"""Every cell of every table, against the papers' formulas written a second time.

A table is a class of trainings and a choice of multipliers. The class says how the effective weight
`W = mult * w` starts and moves; the multipliers say how that is divided between the model and the
optimizer (Tensor Programs V, Lemma J.1). Both are written here without the tables' own cells.
"""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from torch import nn

from mupl.optim.shampoo import shampoo_rules
from mupl.parametrization.rules import (
    CELLS,
    ROWS,
    Parametrization,
    get_parametrization,
    parse_table,
)
from mupl.parametrization.symmetry import shift
from mupl.parametrization.tables import TABLES
from mupl.roles import SPECIAL_ROWS, Role, describe

# Of which no product of powers is 1, so that two cells are equal only if they are the same
SYMBOLS = {
    "m_in": 5.0,
    "m_out": 7.0,
    "m_copies": 17.0,
    "m_L": 3.0,
    "fan_in": 11.0,
    "fan_out": 13.0,
    "sigma": 1.7,
    "alpha": 2.3,
    "shape_factor": 1.9,
}
S = SimpleNamespace(**SYMBOLS)


class Effective(NamedTuple):
    """How W starts and moves, over the standard parametrization at the base width."""

    init: float = 1.0
    sgd: float = 1.0  # W moves by this times the gradient of W
    adam: float = 1.0  # entries of W move by this
    eps: float = 1.0  # Adam's, compared with the gradient of W
    orthogonal: float = S.shape_factor  # W moves by this times an orthogonal matrix


def std_class(readout: float) -> dict[str, Effective]:
    """Weights of std fan_in^-1/2 that all move alike (SP)."""
    return {"hidden": Effective(init=S.m_in**-0.5), "output": Effective(init=readout)}


# dW has the RMS->RMS norm 1 (Yang, Simon & Bernstein 2023): Adam's, with entries of size lr, has
# lr * fan_in, an orthogonal one (fan_in / fan_out)^1/2 lr. Gradients of W shrink as 1 / fan_out
# before the readout, whose own keeps its size.
MUP = {
    "input": Effective(1, S.m_out, 1, 1 / S.m_out, S.m_out**0.5),
    "hidden": Effective(
        init=S.m_in**-0.5,
        sgd=S.m_out / S.m_in,
        adam=1 / S.m_in,
        eps=1 / S.m_out,
        orthogonal=(S.m_out / S.m_in) ** 0.5,
    ),
    "output": Effective(1 / S.m_in, 1 / S.m_in, 1 / S.m_in, 1, S.m_in**-0.5),
    "scalar": Effective(),
}
SP = std_class(S.m_in**-0.5)
# NTK moves w, not W, by one lr: W = m^-1/2 w moves by mult^2 lr under SGD, by mult lr under Adam
OF_NTK = Effective(S.m_in**-0.5, 1 / S.m_in, S.m_in**-0.5, S.m_in**0.5, S.m_in**-0.5 * 1.9)
NTK = {"hidden": OF_NTK, "output": OF_NTK}
FULL_ALIGN = {  # Everett et al. 2024
    "input": Effective(sgd=S.m_out**0.5),
    "hidden": Effective(init=S.m_in**-0.5, sgd=S.m_in**-0.5, adam=1 / S.m_in),
    "output": Effective(init=S.m_in**-0.5, sgd=1 / S.m_in, adam=1 / S.m_in),
}
# Branches times m_L^-a have gradients of that size. Depth-muP (a = 1/2) takes m_L^-1/2 of Adam's lr
# in all tensors; CompleteP (a = 1) lets SGD make up for the gradients.
DEPTH_MUP = {
    row: e._replace(adam=e.adam * S.m_L**-0.5, eps=e.eps * S.m_L**-0.5) for row, e in MUP.items()
}
COMPLETEP = {row: e._replace(sgd=e.sgd * S.m_L, eps=e.eps / S.m_L) for row, e in MUP.items()}

# By the roots of these Adam's update is smaller, and a gradient's entries larger, in an eigenbasis
OF_SIDES = {"rotated": ("m_in", "m_out"), "rotated_in": ("m_in",), "rotated_out": ("m_out",)}
# Kinds that share all cells but lr with Adam
OF_ADAM = ("sign", "normalized", "whitened", "relative", "relative_low_rank")
GROWING = {"input": ("m_out",), "hidden": ("m_in", "m_out"), "output": ("m_in",), "scalar": ()}
ROLE_ROWS = (*Role, *SPECIAL_ROWS)
ONE_LR = ("sp", "ntk")  # whatever the optimizer does
MULT_OF_READOUT = {"output": 1 / S.m_in}
ROOT = S.alpha**0.5
# name -> class, multipliers by row (1 where none is given)
FORMS: dict[str, tuple[dict[str, Effective], dict[str, float]]] = {
    "sp": (SP, {}),
    "ntk": (NTK, {"hidden": S.m_in**-0.5, "output": S.m_in**-0.5}),
    "sp_full_align": (FULL_ALIGN, {}),
    "ntk_full_align": (FULL_ALIGN, {"hidden": S.m_in**-0.5, "output": S.m_in**-0.5}),
    "mup": (MUP, MULT_OF_READOUT),
    "cerebras": (MUP, MULT_OF_READOUT),
    "mup_table3": (MUP, {}),
    "mup_table9": (MUP, {"input": S.m_out**0.5, "output": S.m_in**-0.5}),
    "mean_field": (MUP, {"hidden": S.m_in**-0.5, "output": 1 / S.m_in}),
    "unit_init": (
        MUP,
        {"input": S.sigma, "hidden": S.sigma * S.m_in**-0.5, "output": S.sigma / S.m_in},
    ),
    "depth_mup": (DEPTH_MUP, MULT_OF_READOUT),
    "completep": (COMPLETEP, MULT_OF_READOUT),
}
# MuLinear's hidden layers are for m_out = m_in: it has one lr, and a layer knows one width.
# Mult by row, and by what the gradient of w is multiplied; one lr and eps for all. Its
# alpha multiplies the layer's lr under SGD, the root of it under Adam
OF_ONE_WIDTH = MUP | {"hidden": MUP["hidden"]._replace(sgd=1.0, eps=1 / S.m_in)}
MULINEAR_MULT = {
    "sgd": {"input": S.m_out**0.5, "output": S.m_in**-0.5},
    "adam": {"hidden": 1 / S.m_in, "output": 1 / S.m_in},
}
MULINEAR_GRAD = {
    "sgd": {},
    "adam": {"input": S.m_out, "hidden": S.m_in**2, "output": S.m_in},
}
ATTENTION = dict.fromkeys(TABLES, 1 / S.m_in) | dict.fromkeys(
    ("sp", "ntk", "sp_full_align", "ntk_full_align"), S.m_in**-0.5
)
RESIDUAL = {"depth_mup": S.m_L**-0.5, "completep": 1 / S.m_L}


def divided(effective: Effective, mult: float, grad: float, kind: str) -> dict[str, float]:
    """The cells of a row that make `W = mult * w` start and move so, by the chain rule.

    The gradient of w is mult times the one of W. A step of w moves W by mult times it.
    """
    lr = {
        "sgd": effective.sgd / (mult**2 * grad),
        "adam": effective.adam / mult,
        "orthogonal": effective.orthogonal / mult / S.shape_factor,
    }[kind]
    eps = effective.eps * mult * grad if kind == "adam" else 1.0
    return {"mult": mult, "init": effective.init / mult, "lr": lr, "eps": eps, "grad": grad}


def of_umup(name: str, row: str) -> dict[str, float]:
    """Blake et al. 2024: absolute, w ~ N(0, 1), all lr times depth^-1/2."""
    output_scale = name == "umup_output_scale"
    of_fan_in = S.fan_in**0.5 if output_scale else S.fan_in**-0.5
    of_embedding = S.fan_out**0.5 if output_scale else S.fan_out**-0.5
    of_vector = S.fan_out if output_scale else 1.0
    mult, lr = {
        "input": (S.fan_in**-0.5, of_fan_in),
        "hidden": (S.fan_in**-0.5, of_fan_in),
        "output": (1 / S.fan_in, 1.0),
        "scalar": (1.0, 1.0),
        "input_embedding": (1.0, of_embedding),
        "input_vector": (1.0, of_vector),
        "scalar_vector": (1.0, of_vector),
    }[row]
    init = 1.0 if row.startswith("scalar") else 1 / S.sigma
    return {"mult": mult, "init": init, "lr": lr * S.m_L**-0.5, "eps": 1.0, "grad": 1.0}


# Whatever happens to gradients, in their eps at least
NOT_OF_GRADIENTS = (*ONE_LR, "umup", "umup_output_scale")


def of_copies(name: str, kind: str) -> dict[str, float]:
    """What multiplies the row of a tensor with more matrices (arXiv 2605.14200, 2026).

    Each sees a share 1 / m_copies of the examples, and its gradients are as much smaller.
    """
    cells = dict.fromkeys(CELLS, 1.0)
    if name == "mulinear":
        return cells | {"grad": S.m_copies}
    if name in NOT_OF_GRADIENTS or kind == "orthogonal":
        return cells
    if kind == "sgd":
        return cells | {"lr": S.m_copies}
    return cells if name.endswith("full_align") else cells | {"eps": 1 / S.m_copies}


def expected(name: str, kind: str, row: str) -> dict[str, float]:
    """Cells of a row by the papers; of a multiplier's row, mult alone."""
    if row == "copies":
        return of_copies(name, kind)
    if kind in OF_SIDES:
        cells = expected(name, "adam", row)
        growing = GROWING[SPECIAL_ROWS.get(row, row)] if row in ROLE_ROWS else ()
        sides = [side for side in OF_SIDES[kind] if side in growing and name not in ONE_LR]
        size = math.prod(SYMBOLS[side] ** 0.5 for side in sides)
        return {cell: x * size if cell in ("lr", "eps") else x for cell, x in cells.items()}
    if kind in OF_ADAM and row in ROLE_ROWS:
        cells = expected(name, "adam", row)
        if kind == "relative":  # a step in relation to the tensor is the same at every width
            return cells | {"lr": 1.0}
        if kind == "relative_low_rank":  # its spectral norm grows as the root of the width
            grows = "m_in" in GROWING[SPECIAL_ROWS.get(row, row)] and name not in ONE_LR
            return cells | {"lr": S.m_in**-0.5 if grows else 1.0}
        if kind == "sign":  # as Adam's, whatever the optimizer makes of shapes
            size = 1.0 if name in ONE_LR else S.shape_factor
            return cells | {"lr": cells["lr"] / size}
        return cells | {"lr": expected(name, "orthogonal", row)["lr"]}
    if row == "attention":
        return {"mult": ATTENTION[name]}
    if row == "residual":
        return {"mult": RESIDUAL.get(name, 1.0)}
    if name.startswith("umup"):
        return of_umup(name, row)
    role = str(SPECIAL_ROWS.get(row, row))
    if name == "mulinear":
        effective = OF_ONE_WIDTH[role]
        effective = effective._replace(
            sgd=effective.sgd * S.alpha, adam=effective.adam * ROOT, eps=effective.eps / ROOT
        )
        mult = ROOT * MULINEAR_MULT[kind].get(role, 1.0)
        return divided(effective, mult, MULINEAR_GRAD[kind].get(role, 1.0), kind)
    by_role, mults = FORMS[name]
    return divided(by_role.get(role, Effective()), mults.get(role, 1.0), 1.0, kind)


def found(parametrization: Parametrization, kind: str, row: str) -> dict[str, float]:
    rule = parametrization.rule(kind, row)
    return {cell: getattr(rule, cell)(**SYMBOLS) for cell in CELLS}


def wrong_rows(name: str, parametrization: Parametrization) -> list[tuple[str, str]]:
    """Kinds and rows whose cells differ from the papers'."""
    wrong = []
    for kind in parametrization.update_kinds:
        for row in ROWS:
            right = expected(name, kind, row)
            cells = found(parametrization, kind, row)
            if any(cells[cell] != pytest.approx(right[cell]) for cell in right):
                wrong.append((kind, str(row)))
    return wrong


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_the_papers_say(name: str, row: str) -> None:
    parametrization = get_parametrization(name)
    for kind in parametrization.update_kinds:
        cells = found(parametrization, kind, row)
        right = expected(name, kind, row)
        assert {cell: cells[cell] for cell in right} == pytest.approx(right), kind


def test_which_tables_have_rules_for_which_updates() -> None:
    of_adam = ["adam", *OF_SIDES, "sign", "relative", "relative_low_rank"]
    only = {"cerebras": of_adam, "umup_output_scale": ["sgd"]}
    without_orthogonal = [*("sp_full_align", "ntk_full_align", "mulinear"), *RESIDUAL, "umup"]
    for name in without_orthogonal:
        only[name] = ["sgd", *of_adam]
    for name in TABLES:
        kinds = get_parametrization(name).update_kinds
        every = ["sgd", "adam", "orthogonal", *OF_SIDES, *OF_ADAM]
        assert kinds == only.get(name, every), name


@pytest.mark.parametrize("name", ["mup", "mup_table3", "cerebras", "completep"])
def test_learning_rates_and_eps_of_soap_are_those_of_qiu_et_al(name: str) -> None:
    """2025, arXiv 2512.05620: SOAP with both sides, the inputs' or the outputs' preconditioned."""
    d_in, d_out = S.m_in, S.m_out
    depth = S.m_L if name == "completep" else 1.0
    published = {
        "rotated": ((d_out / d_in) ** 0.5, (d_in / d_out) ** 0.5 / depth),
        "rotated_in": (d_in**-0.5, d_in**0.5 / d_out / depth),
        "rotated_out": (d_out**0.5 / d_in, d_out**-0.5 / depth),
    }
    for kind, (lr, eps) in published.items():
        cells = found(get_parametrization(name), kind, "hidden")
        assert (cells["lr"], cells["eps"]) == pytest.approx((lr, eps)), kind


@pytest.mark.parametrize("name", ["mup", "cerebras", "completep"])
@pytest.mark.parametrize("block_size", [None, 48])
def test_matrix_eps_is_that_of_qiu_et_al(name: str, block_size: int | None) -> None:
    """2025, arXiv 2512.05620: d_in / d_out over the square of depth and the number of blocks.

    A side of 96 has two blocks of 48, and has one of 32 at the base width.
    """

    def build(width: int, depth: int) -> nn.Module:
        return nn.Sequential(*[nn.Linear(2 * width, width) for _ in range(depth)])

    infos = describe(build, width=96, base_width=32, depth=4, base_depth=2)
    rules = shampoo_rules(1e-3, block_size)
    matrix_eps = rules.matrix_eps
    assert matrix_eps is not None
    assert matrix_eps.value == 1e-3
    info = infos["0.weight"]
    rule = get_parametrization(name).rule(matrix_eps.kind_of(info), "hidden")
    symbols = SYMBOLS | {"m_in": 3.0, "m_out": 5.0, "m_L": 2.0}
    blocks = 1 if block_size is None else 3 * 5
    depth = 2 if name == "completep" else 1
    assert rule.eps(**symbols) ** 2 == pytest.approx(3 / 5 / depth**2 / blocks)


def test_a_table_may_have_columns_of_its_own_for_a_rotated_basis() -> None:
    text = "a table: A Paper, 2026\n    adam.lr  rotated_in.lr\nhidden  1/m_in  m_in^-1/3"
    own = Parametrization("own", parse_table(text).rules)
    assert str(own.rule("rotated_in", "hidden").lr) == "m_in^-1/3"
    assert str(own.rule("rotated_out", "hidden").lr) == "m_out^1/2/m_in"


@pytest.mark.parametrize("name", TABLES)
def test_lr_times_weight_decay_does_not_change_but_with_the_depth_of_depth_mup(name: str) -> None:
    parametrization = get_parametrization(name)
    for kind in parametrization.update_kinds:
        for role in Role:
            rule = parametrization.rule(kind, role)
            if name == "depth_mup" and kind != "sgd":
                assert rule.wd is not None
                assert (rule.lr * rule.wd)(**SYMBOLS) == pytest.approx(S.m_L**-0.5), role
            else:
                assert rule.wd is None, (kind, role)


def dropped_cells(name: str) -> list[tuple[str, str]]:
    """The table with each of its cells but 1 made 1: text, and which cell it was."""
    lines = TABLES[name].split("\n")
    texts = []
    for index, line in enumerate(lines):
        row, *cells = line.split() or [""]
        if row not in ROWS:
            continue
        for column, cell in enumerate(cells):
            if cell != "1":
                spoilt = [row, *cells[:column], "1", *cells[column + 1 :]]
                text = "\n".join([*lines[:index], " ".join(spoilt), *lines[index + 1 :]])
                texts.append((text, f"{row}, column {column}: {cell}"))
    return texts


@pytest.mark.parametrize("name", TABLES)
def test_a_dropped_cell_is_seen_by_these_tests(name: str) -> None:
    for text, cell in dropped_cells(name):
        spoilt = Parametrization(name, parse_table(text).rules)
        decays = {kind: spoilt.rule(kind, "hidden").wd for kind in spoilt.update_kinds}
        as_tabled = get_parametrization(name)
        same_decay = all(as_tabled.rule(kind, "hidden").wd == wd for kind, wd in decays.items())
        assert wrong_rows(name, spoilt) or not same_decay, cell


def moved(parametrization: Any, kind: str, row: str) -> dict[str, float]:
    """How the effective weight starts and moves under a row."""
    cells = found(parametrization, kind, row)
    mult = cells["mult"]
    of_lr = {"sgd": mult**2 * cells["grad"], "relative": 1.0, "relative_low_rank": 1.0}
    speed = of_lr.get(kind, mult) * cells["lr"]
    rule = parametrization.rule(kind, row)
    decay = 1.0 if rule.wd is None else (rule.lr * rule.wd)(**SYMBOLS)
    moves = {"init": mult * cells["init"], "speed": speed, "decay": decay}
    if kind not in ("sgd", "orthogonal"):
        moves["eps"] = cells["eps"] / (mult * cells["grad"])
    return moves


@pytest.mark.parametrize("name", TABLES)
def test_a_shift_leaves_alone_how_effective_weights_start_and_move(name: str) -> None:
    theta = {"input": "3*m_out^1/3", "hidden": "m_in^-1/2*sigma", "output": 0.3, "scalar": 2}
    before = get_parametrization(name)
    for kind in before.update_kinds:
        after = shift(before, theta, kind)
        for row in (*Role, *SPECIAL_ROWS):
            assert moved(after, kind, row) == pytest.approx(moved(before, kind, row)), (kind, row)
            assert found(after, kind, row)["mult"] != pytest.approx(
                found(before, kind, row)["mult"]
            )
