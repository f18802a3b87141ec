"""Spoil one line at a time in a copy of the package, and see whether the tests notice.

    python scripts/mutants.py [NAME ...] [--list] [-j PROCESSES]

A name is a part of a mutant's name, such as `tables` or `schedules.py`. Prints a table: by which
test each mutant was killed, or ALIVE. The exit code is 1 if one lives. The checkout is not touched.
"""

import argparse
import importlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mupl.parametrization.rules import ROWS  # noqa: E402  (from the checkout)
from mupl.parametrization.tables import TABLES  # noqa: E402

COPIED = ("mupl", "tests", "conf", "scripts", "docs", "train.py", "pyproject.toml", "README.md")
TABLES_FILE = "mupl/parametrization/tables.py"
# Libraries that tests import, which takes several seconds
WARM = ("torch", "lightning.pytorch", "hydra", "pandas", "scipy.special", "pytorch_optimizer")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """A line that is wrong.

    Args:
        file: which it is in.
        old: text that stands there exactly once.
        new: what takes its place.
        tests: files, or tests in them (pytest's ids), of which one should fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    about: str = ""

    @property
    def name(self) -> str:
        """The file, and what is changed there."""
        return f"{self.file}: {self.about or f'{self.old.strip()} -> {self.new.strip()}'}"

    def spoilt(self, text: str) -> str:
        """Return the text of the file with the line in it.

        Raises:
            ValueError: if the old text is not there exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file}: {self.old!r} is there {count} times, not once")
        return text.replace(self.old, self.new)


def of_tables() -> Iterator[Mutant]:
    """For each table two rows, each with one of its cells made 1; which ones goes round."""
    for number, (name, text) in enumerate(TABLES.items()):
        rows = []
        lines = text.split("\n")
        for index, line in enumerate(lines):
            row, *cells = line.split() or [""]
            columns = [column for column, cell in enumerate(cells) if cell != "1"]
            if row in ROWS and columns:
                rows.append((index, columns))
        first = rows[number % (len(rows) - 1)]
        for index, columns in (first, rows[-1]):
            yield _without_cell(name, lines, index, columns[number % len(columns)])


def _without_cell(name: str, lines: Sequence[str], index: int, column: int) -> Mutant:
    """The mutant of a table whose line `index` has 1 as the cell of this column."""
    cells = lines[index].split()
    about = f"{name}, {cells[0]}: 1 for {cells[column + 1]}"
    cells[column + 1] = "1"
    before = "\n".join(lines[:index])  # from the title on: the line alone is in other tables too
    old = f"{before}\n{lines[index]}\n"
    new = f"{before}\n    {'  '.join(cells)}\n"
    return Mutant(TABLES_FILE, old, new, ("tests/test_tables.py",), about)


def ids(file: str, *names: str) -> tuple[str, ...]:
    """Pytest's ids of tests in one file."""
    return tuple(f"{file}::{name}" for name in names)


def in_file(
    file: str, tests: str | tuple[str, ...], changes: Sequence[tuple[str, str]]
) -> list[Mutant]:
    """Mutants of one file that the same tests should notice."""
    tests = (tests,) if isinstance(tests, str) else tests
    return [Mutant(file, old, new, tests) for old, new in changes]


THEORY = [
    *in_file(
        "mupl/parametrization/scales.py",
        "tests/test_rules.py",
        [
            ('eps=tuned.eps * factors["eps"]', "eps=tuned.eps"),
            ("weight_decay=tuned.weight_decay * wd_factor", "weight_decay=tuned.weight_decay"),
            ('weight_decay_mode == "coupled" or', 'weight_decay_mode == "decoupled" or'),
            ("return 1 / lr_factor / tuned.lr", "return 1 / lr_factor"),
            ("factor = 1 / lr_factor if", "factor = lr_factor if"),
            ("if wd is None else wd(**symbols)", "if wd is None else 1 / lr_factor"),
            ('symbols["m_in"] ** -decay', 'symbols["m_out"] ** -decay'),
            ('symbols["m_in"] ** -decay', 'symbols["m_in"] ** decay'),
            ('factors["lr"] *= symbols["alpha"]', 'factors["lr"] /= symbols["alpha"]'),
        ],
    ),
    *in_file(
        "mupl/parametrization/scales.py",
        ids("tests/test_gpt.py", "test_tied_embeddings_need_equal_rows_of_embedding_and_readout"),
        [
            ("_transposed(embedding.mult * embedding.init)", "_transposed(embedding.mult)"),
            ('for cell in ("lr", "eps", "grad"):', 'for cell in ("eps",):'),
        ],
    ),
    *in_file(
        "mupl/parametrization/scales.py",
        ids("tests/test_optimizers.py", "test_matrix_eps_comes_with_the_param_groups"),
        [
            ("_symbols(info, {}, rules)) ** 2)", "_symbols(info, {}, rules)))"),
            ("return rules.matrix_eps.value * float(", "return float("),
        ],
    ),
    *in_file(
        "mupl/optim/shampoo.py",
        ("tests/test_blocked.py", "tests/test_tables.py"),
        [
            ("any(blocks) else UpdateKind.ROTATED", "any(blocks) else UpdateKind.ADAM"),
            ("return UpdateKind.ORTHOGONAL", "return UpdateKind.WHITENED"),
            ("return is_cut, is_cut", "return False, False"),
        ],
    ),
    *in_file(
        "mupl/parametrization/exponents.py",
        ids(
            "tests/test_coordinates.py",
            "test_a_whitened_update_may_have_any_rank_but_its_spectral_norm_is_one",
        ),
        [
            ("kind in _OF_ANY_RANK or", "False or"),
            ("return Expected(aligned, aligned)", "pass"),
            (
                "if self._is_filled_input(info):\n            high = low\n        elif",
                "if",
            ),
        ],
    ),
    *in_file(
        "mupl/training/setup.py",
        ids("tests/test_experts.py", "test_an_eps_is_felt_above_a_tenth_of_the_gradient"),
        [("size * scale.mult * scale.grad", "size"), ("FELT_EPS = 0.1", "FELT_EPS = 1.0")],
    ),
    *in_file(
        "mupl/stats/rows.py",
        ids("tests/test_experts.py", "test_a_check_sees_by_the_gradients_whether_eps_is_felt"),
        [('if kind == "grad" and', "if")],
    ),
    *in_file(
        "mupl/analysis/coordinates.py",
        ids("tests/test_experts.py", "test_a_check_sees_by_the_gradients_whether_eps_is_felt"),
        [('group["low"].min()', 'group["low"].max()')],
    ),
    *in_file(
        "mupl/training/setup.py",
        ids("tests/test_soap.py", "test_a_first_gradient_of_zero_is_told"),
        [("not self.optimizer_rules.idle_steps or", ""), ("or not all(at_zero)", "")],
    ),
    *in_file(
        "mupl/parametrization/update_kinds.py",
        ("tests/test_tables.py", "tests/test_soap.py"),
        [
            (
                'ROTATED: Monomial.parse("m_in^1/2*m_out^1/2")',
                'ROTATED: Monomial.parse("m_out^1/2")',
            ),
            ('ROTATED_IN: Monomial.parse("m_in^1/2")', 'ROTATED_IN: Monomial.parse("m_out^1/2")'),
            ('ROTATED_OUT: Monomial.parse("m_out^1/2")', 'ROTATED_OUT: Monomial.parse("m_in^1/2")'),
            ("if kind in DERIVED and len(info.copy_shape) < 2 else kind", "if False else kind"),
            ('Monomial.parse("1/shape_factor")', 'Monomial.parse("shape_factor")'),
            ("NORMALIZED: Derived(UpdateKind.ORTHOGONAL)", "NORMALIZED: Derived(UpdateKind.ADAM)"),
            ("WHITENED: Derived(UpdateKind.ORTHOGONAL)", "WHITENED: Derived(UpdateKind.ADAM)"),
            ("RELATIVE: Derived(None)", "RELATIVE: Derived(UpdateKind.ADAM)"),
            ('Monomial.parse("m_in^-1/2")', 'Monomial.parse("m_in^1/2")'),
            ("round(shape[1] / growth)", "shape[1]"),
        ],
    ),
    *in_file(
        "mupl/parametrization/rules.py",
        "tests/test_tables.py",
        [
            ("lr=lr, eps=adam.eps * eps_factor", "lr=lr, eps=adam.eps"),
            ("    lr *= lr_factor\n", ""),
            ("else adam.wd * adam.lr / lr", "else adam.wd"),
            ("lr_factor = lr_factor.without(symbol)", "pass"),
        ],
    ),
    *in_file(
        "mupl/parametrization/symmetry.py",
        "tests/test_tables.py",
        [
            ('"sgd": (2, 0)', '"sgd": (1, 0)'),
            ('"adam": (1, 1)', '"adam": (1, 0)'),
            ('"orthogonal": (1, 0)', '"orthogonal": (2, 0)'),
            ("wd *= theta**lr_power", "wd /= theta**lr_power"),
            ("init=rule.init / theta", "init=rule.init * theta"),
        ],
    ),
    *in_file(
        "mupl/parametrization/exponents.py",
        ids(
            "tests/test_coordinates.py",
            "test_no_parametrization_may_have_updates_that_make_outputs_grow",
        ),
        [("Role.HIDDEN: -1.0, Role.OUTPUT", "Role.HIDDEN: -0.5, Role.OUTPUT")],
    ),
    *in_file(
        "mupl/parametrization/exponents.py",
        ids(
            "tests/test_coordinates.py",
            "test_a_matrix_of_fixed_size_behind_a_block_that_grows_inside_may_make_the_logits",
        ),
        [
            ("self._readouts + self._behind_readouts()", "self._readouts"),
            ("names[last + 1 :]", "names"),
        ],
    ),
    *in_file(
        "mupl/parametrization/exponents.py",
        ids(
            "tests/test_coordinates.py",
            "test_what_positions_of_images_make_of_an_update_may_be_random",
        ),
        [("or _owner(name) in self._seen.of_images", "")],
    ),
    *in_file(
        "mupl/stats/recorder.py",
        ids("tests/test_check.py", "test_a_check_sees_which_modules_return_images"),
        [("self._rows.of_images.add(name)", "pass"), ("IMAGE_DIMS = 4", "IMAGE_DIMS = 2")],
    ),
    *in_file(
        "mupl/parametrization/exponents.py",
        "tests/test_rules.py",
        [("power -= HALF * sum(self._growth(info))", "power += HALF * sum(self._growth(info))")],
    ),
    *in_file(
        "mupl/parametrization/exponents.py",
        ids(
            "tests/test_coordinates.py",
            "test_weight_decay_by_an_exponent_shrinks_where_fan_in_grows",
            "test_an_update_in_a_rotated_basis_lies_between_few_directions_and_all",
        ),
        [
            ("shifted(-self.decay_power(name, decay_exponent))", "shifted(0)"),
            ("Expected(-self._power(self.rules.rotation(info), info), 0.0)", "Expected()"),
            ("filled = most / 2 if", "filled = most if"),
        ],
    ),
]
OPTIMIZERS = [
    *in_file(
        "mupl/optim/schedules.py",
        ids(
            "tests/test_training.py",
            "test_schedules",
            "test_the_factor_of_an_update_is_that_at_the_middle_of_its_step",
            "test_milestones_count_from_where_they_lie",
        ),
        [
            ("self.at((k + 0.5) / max_steps)", "self.at((k + 1.5) / max_steps)"),
            ("(1 - math.cos(math.pi * decayed)) / 2", "1 - math.cos(math.pi * decayed / 2)"),
            ("math.sqrt(start / fraction)", "start / fraction"),
            ("if decayed >= milestone]", "if decayed > milestone]"),
            ("1 - (1 - self.final) * decayed", "1 - decayed"),
        ],
    ),
    *in_file(
        "mupl/optim/batch_size.py",
        "tests/test_batch_size.py",
        [
            ("lr * rule.lr(self.m_B, self.m_D)", "lr * rule.lr(self.m_D, self.m_B)"),
            ("1 - faster * (1 - beta)", "faster * beta"),
            ("round(base_batch_size * m_D", "int(base_batch_size * m_D"),
        ],
    ),
    *in_file(
        "mupl/parametrization/hyperparameters.py",
        "tests/test_batch_size.py",
        [
            ("eps=Powers(-1 / 2, 0)", "eps=Powers(1 / 2, 0)"),
            ("forgetting=Powers(1, -1)", "forgetting=Powers(1, 1)"),
            ('Wang & Aitchison 2024", weight_decay=Powers(1, -1)', 'Wang", weight_decay=Powers(1)'),
            ("lr=Powers(0, -0.32)", "lr=Powers(0, -0.3)"),
            ("lr=Powers(1 / 2, -0.32)", "lr=Powers(0, -0.32)"),
            ("lr=Powers(0.62, -0.56)", "lr=Powers(0.56, -0.62)"),
            ('"power_lines": 0.383', '"power_lines": 0.45'),
            ('"scion": 0.45', '"scion": 0.383'),
        ],
    ),
    *in_file(
        "mupl/optim/soap.py",
        "tests/test_soap.py",
        [
            ("if info.out_first else (rest, first)", "if True else (rest, first)"),
            ("if max(inputs) <= largest:", "if max(inputs) < largest:"),
            ("return UpdateKind.ROTATED_IN\n", "return UpdateKind.ROTATED\n"),
            ("return UpdateKind.ROTATED_OUT", "return UpdateKind.ADAM"),
            (" and info.role is not Role.INPUT", ""),
            ("idle_steps=1", "idle_steps=0"),
        ],
    ),
    *in_file(
        "mupl/stacked/rules.py",
        ids(
            "tests/test_stack.py",
            "test_members_follow_the_trajectories_that_they_have_alone[sgd-None]",
        ),
        [
            ('"lr": scale.lr * scale.mult * c, "l2"', '"lr": scale.lr * scale.mult, "l2"'),
            ('c, "l2": scale.weight_decay / (scale.mult * c)', 'c, "l2": scale.weight_decay / c'),
        ],
    ),
]
DATA = [
    *in_file(
        "mupl/data/batches.py",
        ids(
            "tests/test_data.py",
            "test_batches_are_normalised_examples",
            "test_batches_of_many_seeds_are_those_of_each_and_a_kept_batch_stays",
            "test_order_is_a_function_of_seed_and_epoch",
            "test_train_epoch_has_each_example_once",
            "test_iterations_differ_and_repeat_with_the_seed",
            "test_a_loader_goes_on_from_a_step",
        ),
        [
            ("np.random.SeedSequence((seed, index))", "np.random.SeedSequence(seed + index)"),
            ("generator=seeded(seed, epoch)", "generator=seeded(seed, 0)"),
            ("(self._orders[:, batch, part])", "(self._orders[:, 0, part])"),
            ("(len(self._x), seed, epoch)", "(len(self._x), 0, epoch)"),
            ('self._given = state["step"]', 'self._given = state["step"] + 1'),
            ("scale = 1 / (255 * std)", "scale = 1 / 255 / std**2"),
        ],
    ),
    *in_file(
        "mupl/data/batches.py",
        ids(
            "tests/test_text.py",
            "test_crops_are_a_function_of_seed_and_step",
            "test_targets_are_the_tokens_that_follow",
        ),
        [
            ("generator=seeded(seed, step)", "generator=seeded(seed, 0)"),
            ("y = self._crops[..., 1:]", "y = self._crops[..., :-1]"),
        ],
    ),
    *in_file(
        "mupl/stacked/stack.py",
        "tests/test_stack.py::test_seeds_may_be_shared_or_not",
        [("batch_size, of_batches, self", "batch_size, [0 for _ in of_batches], self")],
    ),
]
RESUME = [
    *in_file(
        "mupl/stacked/output.py",
        "tests/test_output.py",
        [
            (
                "_log(job, parametrization, rows + logged, outcome)\n        job.write(outcome)",
                "job.write(outcome)\n        _log(job, parametrization, rows + logged, outcome)",
            )
        ],
    ),
    *in_file(
        "mupl/stacked/stack.py",
        (
            "tests/test_stack_state.py",
            "tests/test_stack.py::test_a_member_that_diverges_is_frozen_and_touches_no_other",
            "tests/test_stack.py::test_a_stack_goes_on_from_its_state_and_from_that_of_some_members",
        ),
        [
            ("self.optimizer.freeze(any_bad)", "self.optimizer"),
            ("self.diverged()  # freezes the", "# freezes the"),
            (
                "            tensor.copy_(saved[name][chosen])",
                "            tensor.copy_(saved[name])",
            ),
            ("check_fits(mine, state, members, self.max_steps)", "pass"),
        ],
    ),
    *in_file(
        "mupl/stacked/optimizer.py",
        (
            "tests/test_stack.py::test_a_member_that_diverges_is_frozen_and_touches_no_other",
            "tests/test_stack_state.py::test_members_that_diverged_stay_frozen_after_a_resume",
        ),
        [("tensor[stopped] = 0", "tensor[:] = 0"), ('slot.scalars["lr"]):', "slot.weight):")],
    ),
    *in_file(
        "mupl/stacked/plan.py",
        "tests/test_plan.py::test_stacks_are_few_within_the_limit_and_keep_seeds_together",
        [
            ("if len(whole) <= count and", "if"),
            ("and all(len(stack) <= limit for stack in whole)", ""),
            ("count = math.ceil(len(ordered) / limit)", "count = len(ordered) // limit or 1"),
        ],
    ),
    *in_file(
        "mupl/stacked/memory.py",
        "tests/test_freed_memory.py",
        [
            ("    mallopt(TRIM_THRESHOLD, KEPT)\n", ""),
            ("    mallopt(MMAP_THRESHOLD, LARGEST_IN_HEAP)\n", ""),
        ],
    ),
    *in_file(
        "mupl/stacked/train.py",
        "tests/test_freed_memory.py",
        [("        keep_freed_memory()", "        pass")],
    ),
    *in_file(
        "mupl/nn/dropout.py",
        "tests/test_dropout.py",
        [
            ("self.calls.add_(1)", "self.calls.add_(0)"),
            ("SeedSequence((seed, layer))", "SeedSequence((seed, 0))"),
            ("SeedSequence((seed, layer))", "SeedSequence((0, layer))"),
            (".view(x.shape) / (1 - self.p)", ".view(x.shape)"),
            ("_fold(x, 15) ^ second", "_fold(x, 15)"),
        ],
    ),
    *in_file(
        "mupl/stacked/model.py",
        "tests/test_stacked_gpt.py::test_a_seed_draws_the_same_masks_alone_and_among_others",
        [("seed_dropout(model, seeds)", "seed_dropout(model, list(range(len(seeds))))")],
    ),
]
MODELS = [
    *in_file(
        "mupl/models/sizes.py",
        "tests/test_conf_models.py::test_an_argument_follows_from_sizes",
        [('if sign == "*" else value / factor', 'if sign == "*" else value')],
    ),
    *in_file(
        "mupl/models/library.py",
        "tests/test_conf_models.py::test_an_argument_follows_from_sizes",
        [("return image_size[0]", "return image_size")],
    ),
    *in_file(
        "mupl/nn/experts.py",
        "tests/test_stacked_gpt.py::test_each_expert_is_moved_as_a_matrix_of_its_own",
        [
            (
                "y.unflatten(0, self.weight.shape[:2])",
                "y.unflatten(0, self.weight.shape[:2]).flip(1)",
            )
        ],
    ),
    *in_file(
        "mupl/initializers.py",
        "tests/test_conf_models.py::test_a_stack_trains_each_member_as_it_trains_alone[hf_gpt2]",
        [('is_default = torch.get_default_device().type == "cpu"', "is_default = True")],
    ),
    *in_file(
        "mupl/models/gpt.py",
        ids(
            "tests/test_gpt.py",
            "test_it_computes_its_formula",
            "test_attention_with_dropout_is_fused_attention_where_nothing_is_dropped",
        ),
        [
            ("attention_mult / math.sqrt(config.head_size)", "attention_mult / config.head_size"),
            ("is_causal=True", "is_causal=False"),
            ("dtype=torch.bool).triu(1)", "dtype=torch.bool).triu(2)"),
            ("(torch.arange(0, d_head, 2) / -d_head)", "(torch.arange(0, d_head, 2) / d_head)"),
        ],
    ),
    *in_file(
        "mupl/models/gpt.py",
        ids(
            "tests/test_unit_scaling.py",
            "test_parameters_activations_and_gradients_have_unit_scale_at_the_start",
        ),
        [
            ("return times(self.value_scale, y_NHTD)", "return y_NHTD"),
            ("math.sqrt(config.hidden / config.width)", "1.0"),
        ],
    ),
    *in_file(
        "mupl/nn/multipliers.py",
        ids(
            "tests/test_gpt.py",
            "test_it_computes_its_formula",
            "test_tied_embeddings_need_equal_rows_of_embedding_and_readout",
        ),
        [('("tied", width**-0.5', '("tied", 1.0'), ("alpha=self.value)", "alpha=1)")],
    ),
    *in_file(
        "mupl/roles/attention.py",
        ids("tests/test_attention.py", "test_the_factor_is_that_of_the_rule"),
        [
            ("m_in=size / base.sizes[0]", "m_in=(size / base.sizes[0]) ** 0.5"),
            ("value=base.scale", "value=place.own"),
            ("IN_PROJECTION, path, own=size**-0.5", "IN_PROJECTION, path, own=1.0"),
        ],
    ),
    *in_file(
        "mupl/roles/branches.py",
        ids(
            "tests/test_branches.py",
            "test_branches_are_found",
            "test_what_is_a_branch",
            "test_blocks_of_images",
        ),
        [
            ("if not is_first:", "if False:"),
            ("if len(norms) != 1 or", "if not norms or not"),
            ("self.unsure = True", "self.unsure = False"),
        ],
    ),
    *in_file(
        "mupl/nn/fold.py",
        ids("tests/test_fold.py", "test_saved_and_loaded_it_is_the_same_function[gpt2]"),
        [
            ("w.narrow(1 if is_transposed else 0, 0, size)", "w.narrow(0, 0, size)"),
            ("if mult != mults[0]:", "if mult == mults[0]:"),
        ],
    ),
    *in_file(
        "mupl/nn/unit_scaling.py",
        ids(
            "tests/test_unit_scaling.py",
            "test_linear_layers_and_readouts",
            "test_gradients_pass_a_readout_with_unit_variance",
            "test_embedding",
            "test_activations",
            "test_attention",
            "test_residual",
            "test_cross_entropy",
            "test_dropout",
            "test_shares_of_residual_branches",
        ),
        [
            ("1 / (1 + 0.25 / mult**2)", "1 / (1 + 1 / 0.25 / mult**2)"),
            ("_between(weight, 2, math.sqrt(2))", "_between(weight, 2, 2)"),
            ("math.log(length) / length", "1 / length"),
            ("size / math.sqrt(size - 1)", "math.sqrt(size - 1)"),
            ("lookups**-0.5", "lookups**0.5"),
            ("averaging = examples**-0.5", "averaging = examples**-1.0"),
            ("math.sqrt(branches / 2 + before)", "math.sqrt(branches + before)"),
            ("backward = self.out_features**-0.5", "backward = self.in_features**-0.5"),
            ("return math.sqrt(1 - p) * F.dropout(x, p)", "return F.dropout(x, p)"),
            ("math.sqrt(1 - self.p) * y", "y"),
        ],
    ),
]
COORDINATES = ids(
    "tests/test_coordinates.py",
    "test_the_slope_is_that_of_the_logarithms",
    "test_the_error_of_a_slope_is_that_of_a_regression_with_a_constant_for_each_seed",
    "test_the_interval_is_students",
    "test_the_jackknife_of_a_mean_is_its_interval",
    "test_a_verdict_is_whether_the_slope_lies_where_it_must",
    "test_what_fades_as_the_sizes_grow_is_not_judged_and_what_stays_fails",
    "test_rounding_errors_of_a_gradient_are_no_signal",
)
NUMBERS = [
    *in_file(
        "mupl/stats/reductions.py",
        ids(
            "tests/test_stats.py",
            "test_a_statistic_is_its_formula_and_scales_as_it_says",
            "test_members_of_a_stack_are_measured_one_by_one",
        ),
        [
            ("self.members + self.batch_dims + 1)", "self.members + self.batch_dims, -2)"),
            ("math.sqrt(fan_in / fan_out)", "math.sqrt(fan_out / fan_in)"),
            ("x.frobenius / math.sqrt(x.numel)", "x.frobenius / x.numel"),
            ("_norm(block - mean)", "_norm(block)"),
            ("block.abs().sum(-1)", "block.sum(-1)"),
            ("positive(x.spectral)) ** 2", "positive(x.spectral))"),
            ("scale=lambda c: c)", "scale=abs)"),
        ],
    ),
    *in_file(
        "mupl/analysis/coordinates.py",
        COORDINATES,
        [
            ("TOLERANCE = 0.1", "TOLERANCE = 0.5"),
            ("self._off(self.fit.slope) - self.tolerance", "self._off(self.fit.slope)"),
            ("max(slope - self.high, self.low - slope)", "slope - self.high"),
            ("self._no_signal() or self._fades() or outside", "self._no_signal() or outside"),
            ("(sizes > 0) & (sizes < ROUNDING * largest)", "sizes < 0"),
        ],
    ),
    *in_file(
        "mupl/analysis/carried.py",
        ("tests/test_carried.py",),
        [
            ("own.loc[is_smallest, [*rules, x]]", "own[[*rules, x]]"),
            ("== PLAIN) & (runs", "!= PLAIN) & (runs"),
            ("(low[0] == 0 and losses.iloc[0] < target)", "False"),
            ("(before - target) / (before - after)", "(before - target)"),
            ("np.log2(of_seeds[name])", "np.log2(of_seeds[name] * 2)"),
            ("lengths.iloc[1:].iterrows()", "lengths.iterrows()"),
            ("run[metric] <= run[", "run[metric] >= run["),
        ],
    ),
    *in_file(
        "mupl/analysis/bootstrap.py",
        (
            "tests/test_prediction.py::test_what_a_seed_does_to_all_learning_rates_does_not_move_the_optimum",
        ),
        [
            ("np.hstack([of_settings, of_seeds])", "np.hstack([of_settings])"),
            ("scatter.paired * self._roots", "scatter.run * self._roots"),
            ("scatter.run * self._roots", "scatter.paired * self._roots"),
            ("return cls(run, freedom, run, freedom)", "return cls(run, freedom, 0.0, freedom)"),
        ],
    ),
    *in_file(
        "mupl/identity/jobs.py",
        ("tests/test_identity.py::test_the_settings_in_which_trainings_differ_are_named",),
        [
            ("if follows or is_ignored", "if is_ignored"),
            ("if choice != other_choice:", "if False:"),
        ],
    ),
    *in_file(
        "mupl/analysis/slopes.py",
        COORDINATES,
        [
            ("values.std(ddof=1)) / math.sqrt(n)", "values.std(ddof=0)) / math.sqrt(n)"),
            ("math.sqrt((n - 1) * float(without.var()))", "math.sqrt(float(without.var()))"),
            ("stdtrit(freedom, 0.975)", "stdtrit(freedom, 0.95)"),
            ("len(rows) - len(seeds) - 1", "len(rows) - len(seeds)"),
            ("values - means[seed]", "values - values.mean()"),
            ("<= FALSE_DISCOVERIES", "<= 2"),
        ],
    ),
    *in_file(
        "mupl/identity/results.py",
        "tests/test_results.py::test_failed_jobs_of_another_version_are_trained_anew_without_a_question",
        [("return failed and bool(changed)", "return failed")],
    ),
    *in_file(
        "mupl/sweep/plan.py",
        "tests/test_report.py::test_a_command_asks_for_the_jobs_that_have_its_values",
        [
            ('for key in ("width", "seed") if', "for key in () if"),
            (' and not any("${" in text for text in texts)', ""),
            ("asked &= jobs[key]", "asked |= jobs[key]"),
        ],
    ),
    *in_file(
        "mupl/analysis/transfer.py",
        ids(
            "tests/test_transfer.py",
            "test_the_optimum_is_that_of_the_parabola_not_of_the_grid",
            "test_regret_is_what_the_smallest_width_s_optimum_costs",
            "test_drift_in_octaves_per_doubling_with_its_interval",
            "test_intervals_are_those_of_sweeps_without_each_seed",
            "test_a_seed_that_failed_at_one_size_has_no_part_in_the_interval_of_the_drift",
            "test_robustness_is_the_power_of_size_in_the_curvature",
        )
        + ids(
            "tests/test_loss_tables.py",
            "test_between_the_neighbours_of_the_best_the_parabola_gives_the_regret",
            "test_the_grid_s_regret_is_what_was_measured",
            "test_the_scatter_over_sizes_bounds_the_drift_of_one_seed",
            "test_a_seed_that_tried_fewer_values_counts_in_no_interval",
        ),
        [
            ("curvature = float(2 * a)", "curvature = float(a)"),
            ("lowest = -b / (2 * a)", "lowest = b / (2 * a)"),
            ("self.curvature / 2 * distance**2", "self.curvature * distance**2"),
            ("log_x = np.log2(series[x].to_numpy(float))", "log_x = series[x].to_numpy(float)"),
            ("<= grid[best + 1]:", "<= grid[best]:"),
            ("measured.sum(min_count=1) - losses.min()", "measured.sum() - losses.min()"),
            ('"value": series[x], "seed": 0', '"value": series[x], "seed": series[size]'),
            ('values="mean").dropna()', 'values="mean")'),
            ("np.arange(n) != i", "np.arange(n) == i"),
            ("found[x] / factor", "found[x] - factor"),
            ('table["drift"] - intervals["half"]', '-intervals["half"]'),
        ],
    ),
    *in_file(
        "mupl/analysis/edges.py",
        "tests/test_reproduce.py::test_a_number_of_optima_at_the_edge_of_the_grid_has_bounds",
        [
            ("at_edge & (octaves <= middle)", "at_edge & (octaves > middle)"),
            ("at_edge & (octaves >= middle)", "at_edge & (octaves < middle)"),
            ("counts = weight != 0", "counts = weight > 0"),
            ("np.where(weight > 0, low, high)", "np.where(weight > 0, high, low)"),
            ("0.0 if at_edge[0] else worst", "worst"),
            ("INF if at_edge.any() else worst", "worst"),
            (".where(~at_edge, -INF).median()", ".where(at_edge, -INF).median()"),
        ],
    ),
    *in_file(
        "mupl/analysis/loss_tables.py",
        "tests/test_loss_tables.py",
        [
            ('NOT_FINITE = ("nan", ', "NOT_FINITE = ("),
            ('"B": 1e9', '"B": 1e6'),
            ("ordered.shift(fill_value=0) * ALIKE", "ordered.shift(fill_value=0)"),
            ("return 2.0**octaves", "return 10.0**octaves"),
            ("texts[filled & ~is_copy]", "texts[filled]"),
            ("[loss].idxmin()", "[loss].idxmax()"),
            ("nunique() <= len(texts) / 2", "nunique() <= len(texts)"),
        ],
    ),
    *in_file(
        "mupl/analysis/readings.py",
        "tests/test_loss_tables.py",
        [
            ("if drift == 0 or low <= 0 <= high:", "if high < low:"),
            ('"rises" if drift > 0', '"rises" if drift < 0'),
            ('row["sizes"] - 2', 'row["sizes"]'),
        ],
    ),
]
SHAPES = "tests/test_shapes.py"
ROLES = [
    *in_file(
        "mupl/roles/description.py",
        SHAPES,
        [
            ("ratio=_ratio(fill, tensor.fill), certain=False", "ratio=1.0, certain=False"),
            ("is_same and sources.m_L in (None, 1)", "is_same"),
            ("if len(proposals[pattern]) == 1 else tensor.name", "if False else tensor.name"),
        ],
    ),
    *in_file(
        "mupl/roles/fans.py",
        SHAPES,
        [
            ("grows[-1] != is_weight", "grows[-1]"),
            (r"|lora_\w+", ""),
            ("shape[0] == 1 and growing == dims[-1:]", "False"),
            ("isinstance(owner, _NORMS)", "False"),
        ],
    ),
    *in_file(
        "mupl/roles/fans.py",
        "tests/test_experts.py",
        [
            ("or (len(shape) == 3 and all(grows))", ""),
            ("is_weight = not getattr", "is_weight = getattr"),
            ("if len(other) > 2 and other[0] in counts:", "if True:"),
        ],
    ),
    *in_file(
        "mupl/parametrization/exponents.py",
        "tests/test_experts.py",
        [
            ("power = -float(info.copies_grow)", "power = 0.0"),
            ("random = HALF if self._is_router(info)", "random = HALF if False"),
            ("or self._is_router_of_few(name) else", "else"),
            ("and _owner(name) != _owner(self._readouts[-1])", ""),
            ("in self._copies and not info.copies_grow", "in self._copies"),
            ("if self._is_router(info) or _owner(name)", "if _owner(name)"),
            ("low -= HALF * min(fan_in, fan_out)", "pass"),
            ("kind == UpdateKind.ADAM and name in", "name in"),
            ("and not self._is_router(tensor)", ""),
            ('gradient.low - self._cell(info, "eps")', "gradient.low"),
            ("fewer = HALF if info.copies_grow", "fewer = HALF if False"),
            ('powers["m_copies"] = float(info.copies_grow)', 'powers["m_copies"] = 0.0'),
        ],
    ),
    *in_file(
        "mupl/roles/infos.py",
        SHAPES,
        [
            ("        if self.constant:\n", "        if False:\n"),
            ("10 * noise_of_ratio", "1000 * noise_of_ratio"),
        ],
    ),
    *in_file(
        "mupl/roles/live.py",
        SHAPES,
        [
            ("reversed(list(model.modules()))", "list(model.modules())"),
            ("if low == high", "if False"),
            ("<= 6 * noise else RANDOM", "<= 6 else RANDOM"),
        ],
    ),
    *in_file(
        "mupl/initializers.py",
        SHAPES,
        [
            ("module, {} if numbers.count else", "module,"),
            ("if self.count > self.MOST:", "if self.count > 4:"),
        ],
    ),
]

AFTERWARDS = [
    *in_file(
        "mupl/nn/scaled_parameters.py",
        ids(
            "tests/test_scaled_parameters.py",
            "test_a_state_dict_that_is_saved_after_an_interrupt_is_the_plain_one",
        ),
        [("module.register_state_dict_pre_hook(_put_back)", "pass")],
    ),
    *in_file(
        "mupl/nn/scaled_parameters.py",
        "tests/test_distributed.py",
        [("prepend=True, always_call=True", "always_call=True")],
    ),
    *in_file(
        "mupl/nn/values.py",
        "tests/test_distributed.py",
        [
            ("[leaf] = (1.0, scale.init_factor)", "[leaf] = (1.0, 1.0)"),
            ("own.rms > 0 and not 1 /", "own.rms < 0 and not 1 /"),
        ],
    ),
    *in_file(
        "mupl/optim/normalized.py",
        "tests/test_normalized.py",
        [
            ("return there * (radius / positive(distance))", "return there"),
            ("lr * radius / length)", "lr / length)"),
            ("torch.where(length == 0, 0, lr * radius / length)", "lr * radius / length"),
            ("w * (1 - decay) - lr * shape_factor *", "w * (1 - decay) - lr *"),
            ('"spectral": partial(unit, norm=spectral_norm)', '"spectral": unit'),
            ("dict.fromkeys(RELATIVES, 0.0)", "{UpdateKind.ROTATED: 0.0}"),
            ("lr=1.0, weight_decay=0.0", "lr=1.0"),
        ],
    ),
    *in_file(
        "mupl/optim/scion.py",
        "tests/test_scion.py",
        [
            ('Monomial.parse("1/fan_in")', 'Monomial.parse("fan_in^-1/2")'),
            ("if constrained else {}", "if not constrained else {}"),
            ("* x.shape[-1] ** 0.5", ""),
        ],
    ),
    *in_file(
        "mupl/optim/orthogonal.py",
        "tests/test_parts.py",
        [
            ('copy.mT if group.get("transposed")', 'copy if group.get("transposed")'),
            ('found += matrix.split(group["parts"])', "found.append(matrix)"),
            ("return (size,) * (sum(info.parts) // size)", "return (size,)"),
        ],
    ),
    *in_file(
        "mupl/optim/groups.py",
        "tests/test_checkpoints.py",
        [
            ("if list(present) != list(saved):", "if False:"),
            ('group.get(f"initial_{key}", group[key])', "group[key]"),
            ("by_index[index] = states[name]", "by_index[index] = states[next(iter(states))]"),
        ],
    ),
]
MUTANTS = [
    *of_tables(),
    *THEORY,
    *OPTIMIZERS,
    *DATA,
    *RESUME,
    *MODELS,
    *NUMBERS,
    *ROLES,
    *AFTERWARDS,
]


def killed_by(mutant: Mutant) -> str | None:
    """Return the id of the first test that fails with the mutant, or None if none does.

    Runs in a process of its own.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_checkout(folder)
        file = folder / mutant.file
        file.write_text(mutant.spoilt(file.read_text()))
        return first_failure(folder, mutant.tests)


def failing_unspoilt(tests: Sequence[str]) -> str | None:
    """Return the id of the first test that fails without any mutant: it would kill all of them.

    Runs in a process of its own.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_checkout(Path(name))
        return first_failure(Path(name), tests)


def first_failure(folder: Path, tests: Sequence[str]) -> str | None:
    """Run tests in a copy of the checkout; return the id of the first that fails, or None.

    The process belongs to the copy from here on.

    Raises:
        RuntimeError: if no test was run.
    """
    for name in list(sys.modules):
        if name.partition(".")[0] == "mupl":
            del sys.modules[name]  # the checkout's
    paths = [str(folder), str(folder / "mupl/stacked/plugin")]
    sys.path[:0] = paths
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    os.chdir(folder)
    log = folder / "mutant.log"
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    options = ["-q", "-x", "-p", "no:cacheprovider", "--assert=plain"]  # plain starts faster
    code = pytest.main([*options, *tests])
    sys.stdout.flush()
    os.chdir(ROOT)
    if code == pytest.ExitCode.OK:
        return None
    failed = FAILED.search(log.read_text())
    if failed is None:
        raise RuntimeError(f"{', '.join(tests)}: no test was run\n{log.read_text()[-2000:]}")
    return failed[1]


def copy_checkout(folder: Path) -> None:
    """Copy what tests read."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("*.png", "*.csv")  # compiled files save seconds
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Return the mutants whose names have one of these parts, or all."""
    if not names:
        return MUTANTS
    return [mutant for mutant in MUTANTS if any(name in mutant.name for name in names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the names and run nothing")
    parser.add_argument("-j", type=int, default=1, metavar="PROCESSES")
    arguments = parser.parse_args()
    mutants = chosen(arguments.names)
    if arguments.list:
        for mutant in mutants:
            print(mutant.name)
        return
    for name in WARM:  # once, and not in each process
        importlib.import_module(name)
    tests: dict[str, None] = {}
    for mutant in mutants:
        tests |= dict.fromkeys(mutant.tests)
    alive = 0
    # each task in a new process, which begins as a copy of this one
    with multiprocessing.get_context("fork").Pool(arguments.j, maxtasksperchild=1) as pool:
        failing = pool.apply(failing_unspoilt, [list(tests)])
        if failing is not None:
            sys.exit(f"{failing} fails without any mutant: mend it first")
        results = pool.imap(killed_by, mutants, chunksize=1)
        for mutant, test in zip(mutants, results, strict=True):
            alive += test is None
            print(f"{mutant.name}  |  {test or 'ALIVE'}", flush=True)
    print(f"{len(mutants)} mutants, {alive} alive")
    sys.exit(alive > 0)


if __name__ == "__main__":
    main()
