"""What mupl makes of models that nobody wrote for it: one row a model, in one table.

    python scripts/survey_models.py [NAMES] [--seeds 5] [--first-seed 0] [--format markdown]

NAMES are globs, such as "hf *"; without them all models are looked at, which takes five minutes of
one core. Nothing is downloaded. Progress and warnings go to stderr. The exit code is 1 if a model
misses one of `TARGETS`. docs/models_table.md explains the columns.
"""

import argparse
import ast
import fnmatch
import itertools
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # works from a checkout that is not installed

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupl
from mupl.analysis.coordinates import FAIL, NOT_JUDGED, PASS
from mupl.analysis.slopes import Fit, fit_slope
from mupl.parametrization.tables import TABLES
from mupl.roles import ParamInfo
from mupl.stats.outputs import main_tensor
from mupl.terminal import print_table
from tests import architectures as own
from tests import foreign

# One setting for all models
WIDTHS = (32, 64, 128, 256)
FOLDED = 96  # three times the base width, so that multipliers are no powers of two
UPDATES = 3
TUNED: dict[str, Any] = {"optimizer": "adam", "lr": 0.004}
D_HEAD = 8  # where the number of heads grows

FLAT, GROWS, ROUNDING = 0.1, 0.3, 1e-4
TARGETS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "roles are asked for as they are": lambda row: row["as_proposed"],
    "logits change alike under mup": lambda row: row["mup"] <= FLAT,
    "their change grows under sp": lambda row: bool(row["blind"]) or row["sp"] >= GROWS,
    "nothing fails under mup": lambda row: row[f"mup {FAIL}"] == 0,
    "something fails under sp": lambda row: row[f"sp {FAIL}"] > 0,
    "the base model is the stock model": lambda row: row["stock"] == row["tables"],
    "the folded model is the same": lambda row: row["fold"] <= ROUNDING,
}

# Tables that promise no stock model at the base width. `unit_init` moves factors between weights
# and multipliers there too, which rounds; u-muP is at no width the standard parametrization.
NOT_STOCK = ("unit_init", "umup", "umup_output_scale")


def drawn(kind: str, *shape: int) -> Tensor:
    """Draw inputs, always the same: normal numbers, or tokens of a vocabulary of 11."""
    generator = torch.Generator().manual_seed(0)
    if kind == "tokens":
        return torch.randint(11, shape, generator=generator)
    return torch.randn(shape, generator=generator)


TOKENS = drawn("tokens", 8, 8)
FEATURES = drawn("normal", 32, 8)
PATCHES = drawn("normal", 16, 3, 8, 8)  # for models that cut images into 4 patches
IMAGES = drawn("normal", 16, 3, 32, 32)  # for those that shrink images to 1/32
TIMES = torch.linspace(0, 3, 16)
CLASSES = torch.arange(16) % 11


def classify(logits: Tensor) -> Tensor:
    """Return the cross-entropy of logits (..., C) against random classes, always the same."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(logits.shape[-1], logits.shape[:-1], generator=generator)
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def regress(output: Tensor) -> Tensor:
    """Return the mean squared error against normal numbers, always the same."""
    return F.mse_loss(output, torch.randn(output.shape, generator=torch.Generator().manual_seed(1)))


def all_readouts(output: Mapping[str, Any]) -> Tensor:
    """Return the logits of all readouts, as if each were of examples of its own."""
    return torch.cat([output["early"], *output["late"]])


class Case(NamedTuple):
    """A model, and what it needs.

    Args:
        build: from a width to the model.
        inputs: by position.
        roles: those that shapes do not tell.
        loss: of the logits.
        logits: takes them from what the model returns.
        blind: why the change of its logits does not grow under the standard parametrization either.
    """

    build: Callable[[int], nn.Module]
    inputs: tuple[Tensor | None, ...] = (TOKENS,)
    roles: Mapping[str, str] = {}
    loss: Callable[[Tensor], Tensor] = classify
    logits: Callable[[Any], Any] = main_tensor
    blind: str = ""

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the logits of a model."""
        return self.logits(model(*self.inputs))


ENCODER = partial(foreign.Encoder, d_head=D_HEAD)
LLAMA = partial(foreign.llama, d_head=D_HEAD)
T5_INPUTS = (TOKENS, None, TOKENS)  # of the encoder, its mask, and of the decoder

CASES: dict[str, Case] = {
    "torch TransformerEncoder, heads grow": Case(ENCODER),
    "torch TransformerEncoder, d_head grows": Case(foreign.Encoder),
    "torchvision ResNet, width_per_group": Case(
        lambda width: foreign.torchvision_resnet(width // 4),
        (IMAGES,),
        blind="channels between its blocks do not grow, and a norm ends each block",
    ),
    "torchvision ResNet, all stages": Case(foreign.WideResNet, (IMAGES,)),
    "torchvision ViT": Case(partial(foreign.torchvision_vit, stock=True), (PATCHES,)),
    "torchvision ConvNeXt": Case(foreign.torchvision_convnext, (IMAGES,)),
    "hf GPT-2, tied": Case(partial(foreign.gpt2, d_head=D_HEAD)),
    "hf GPT-2, untied": Case(partial(foreign.gpt2, d_head=D_HEAD, tie_word_embeddings=False)),
    "hf GPT-2, untied, d_head grows": Case(partial(foreign.gpt2, tie_word_embeddings=False)),
    "hf Llama, tied": Case(partial(LLAMA, tie_word_embeddings=True)),
    "hf Llama, untied": Case(LLAMA),
    "hf Llama, tied, d_head grows": Case(partial(foreign.llama, tie_word_embeddings=True)),
    "hf Llama, untied, d_head grows": Case(foreign.llama),
    "hf Mixtral": Case(
        partial(foreign.mixtral, d_head=D_HEAD), roles={"model.layers.*.mlp.gate.weight": "output"}
    ),
    "hf BERT, masked tokens": Case(partial(foreign.bert, d_head=D_HEAD)),
    "hf BERT, classifier": Case(
        partial(foreign.bert, d_head=D_HEAD, task="SequenceClassification")
    ),
    "hf T5": Case(partial(foreign.t5, d_head=D_HEAD), T5_INPUTS),
    "hf T5, d_kv grows": Case(foreign.t5, T5_INPUTS),
    "hf Mamba": Case(foreign.mamba, roles={"backbone.layers.*.mixer.A_log": "input"}),
    "hf ViT": Case(partial(foreign.vit, d_head=D_HEAD), (PATCHES,)),
    "timm ConvNeXt": Case(foreign.timm_convnext, (IMAGES,)),
    "timm ResNet": Case(foreign.timm_resnet, (IMAGES,)),
    "timm MLP-Mixer": Case(foreign.timm_mixer, (PATCHES,)),
    "timm ViT": Case(foreign.timm_vit, (PATCHES,)),
    "LSTM": Case(partial(own.Recurrent, kind=nn.LSTM)),
    "LSTM, tied": Case(partial(own.Recurrent, kind=nn.LSTM, tied=True)),
    "GRU": Case(partial(own.Recurrent, kind=nn.GRU)),
    "GRU, tied": Case(partial(own.Recurrent, kind=nn.GRU, tied=True)),
    "U-Net": Case(own.UNet, (PATCHES,), loss=regress),
    "DiT, adaLN-zero": Case(own.DiT, (PATCHES, TIMES, CLASSES), loss=regress),
    "LoRA": Case(own.lora, (FEATURES,), roles={"*.lora_a": "output", "*.lora_b": "input"}),
    "three readouts": Case(own.Readouts, (FEATURES,), logits=all_readouts),
    "shared layer": Case(own.shared, (FEATURES,)),
    "frozen layer": Case(own.frozen, (FEATURES,)),
}


def asked_roles(case: Case) -> dict[str, str]:
    """Return the roles for which mupl asks, as its error proposes them."""
    try:
        mupl.describe(case.build, WIDTHS[1], WIDTHS[0])
    except mupl.ConfigError as error:
        proposal = re.search(r"say roles=(\{.*?\})", str(error))
        if proposal is None:
            raise
        return ast.literal_eval(proposal[1])
    return {}


class Steps:
    """The step of a coordinate check, which also notes how far the logits of each model went.

    Attributes:
        changes: mean |logits - those at the start|, at the last step of each model.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.changes: list[float] = []
        self._model: nn.Module | None = None

    def __call__(self, model: nn.Module, batch: None) -> Tensor:
        logits = self.case(model)
        if model is not self._model:
            self._model = model
            self._start = logits.detach()
            self.changes.append(0.0)
        self.changes[-1] = (logits.detach() - self._start).abs().mean().item()
        return self.case.loss(logits)


def trained(case: Case, parametrization: str, seeds: range) -> tuple[Fit, pd.Series]:
    """Train a model at all widths and seeds.

    Returns:
        The slope of log2(change of the logits after `UPDATES` updates) against log2(width), and how
        many rows of the coordinate check got each verdict.
    """
    steps = Steps(case)
    rows = mupl.coord_check(
        case.build,
        WIDTHS,
        [None] * (UPDATES + 1),  # the last step shows the logits after all updates before it
        base_width=WIDTHS[0],
        seeds=seeds,
        step=steps,
        parametrization=parametrization,
        roles=case.roles,
        **TUNED,
    )
    runs = pd.DataFrame(itertools.product(WIDTHS, seeds), columns=["width", "seed"])
    fit = fit_slope(runs.assign(value=steps.changes), "width")
    return fit, mupl.verdict(rows)["verdict"].value_counts()


def setup_at(case: Case, width: int, parametrization: str) -> mupl.Setup:
    return mupl.Setup(
        case.build,
        width,
        base_width=WIDTHS[0],
        parametrization=parametrization,
        roles=case.roles,
        **TUNED,
    )


def stock_at_base(case: Case) -> dict[str, bool | None]:
    """Say by table if tensors and logits at the base width are the stock model's, to the last bit.

    None: the table refuses a readout that is the embedding.
    """
    torch.manual_seed(0)
    stock = case.build(WIDTHS[0])
    tensors = dict(stock.named_parameters())
    logits = case(stock)
    found: dict[str, bool | None] = {}
    for name in TABLES:
        if name in NOT_STOCK:
            continue
        table = mupl.get_parametrization(name).width_only()
        try:
            model = setup_at(case, WIDTHS[0], table).model
        except mupl.ConfigError as error:
            if "cannot be one tensor" not in str(error):
                raise
            found[name] = None
            continue
        same = [torch.equal(w, tensors[key]) for key, w in model.named_parameters()]
        found[name] = all(same) and torch.equal(case(model), logits)
    return found


def fold_error(case: Case) -> float:
    """Return by how much folding changes logits, over the largest of them, after some updates.

    The folded tensors are put into a model as its library builds it.
    """
    setup = setup_at(case, FOLDED, "mup")
    optimizer = setup.optimizer()
    for _ in range(UPDATES):
        optimizer.zero_grad()
        case.loss(case(setup.model)).backward()
        optimizer.step()
    setup.model.eval()
    stock = case.build(FOLDED).eval()
    state = setup.fold().state_dict()
    assert state.keys() == stock.state_dict().keys(), "the folded model has keys of its own"
    with torch.no_grad():
        expected = case(setup.model)
        output = torch.func.functional_call(stock, state, case.inputs, tie_weights=False)
    return ((case.logits(output) - expected).abs().max() / expected.abs().max()).item()


def survey(name: str, seeds: range) -> dict[str, Any]:
    """Measure one model: a row of numbers."""
    case = CASES[name]
    asked = asked_roles(case)
    infos = mupl.describe(case.build, WIDTHS[1], WIDTHS[0], roles=case.roles)
    row: dict[str, Any] = {
        "model": name,
        "blind": case.blind,
        "tensors": sum(isinstance(info, ParamInfo) for info in infos.values()),
        "asked": len(asked),
        "as_proposed": asked == case.roles,
        "warnings": infos.warnings,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each setup repeats the warnings of `infos`
        for parametrization in ("mup", "sp"):
            fit, verdicts = trained(case, parametrization, seeds)
            row[parametrization] = fit.slope
            row[f"{parametrization} low"], row[f"{parametrization} high"] = fit.interval()
            for word in (PASS, FAIL, NOT_JUDGED):
                row[f"{parametrization} {word}"] = int(verdicts.get(word, 0))
        stock = stock_at_base(case)
        row["stock"] = sum(value is True for value in stock.values())
        row["tables"] = sum(value is not None for value in stock.values())
        row["fold"] = fold_error(case)
    return row


def misses(row: Mapping[str, Any]) -> list[str]:
    """Name the targets that a model misses."""
    return [target for target, is_met in TARGETS.items() if not is_met(row)]


def cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out a row of numbers to be read."""
    asked = f"asked for {row['asked']}" if row["asked"] else "yes"
    slopes = {}
    for name in ("mup", "sp"):
        low, high = row[f"{name} low"], row[f"{name} high"]
        slopes[name] = f"{row[name]:+.2f} ({low:+.2f} to {high:+.2f})"
    return {
        "model": row["model"],
        "tensors": row["tensors"],
        "classified": asked if row["as_proposed"] else f"{asked}, wrongly",
        "change of logits, mup": slopes["mup"],
        "sp": slopes["sp"] + (" blind" if row["blind"] else ""),
        "check, mup": " / ".join(str(row[f"mup {word}"]) for word in (PASS, FAIL, NOT_JUDGED)),
        "fails, sp": row[f"sp {FAIL}"],
        "stock": f"{row['stock']} of {row['tables']}",
        "fold": f"{row['fold']:.0e}" if row["fold"] else "0",
        "misses": "; ".join(misses(row)) or "-",
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows as a table of Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [list(row.values()) for row in rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def chosen(patterns: Sequence[str]) -> list[str]:
    """Return the names of models that match one of the globs, in the order of `CASES`.

    Raises:
        ValueError: naming a glob that matches none.
    """
    matches = {pattern: fnmatch.filter(CASES, pattern) for pattern in patterns}
    for pattern, names in matches.items():
        if not names:
            raise ValueError(f"NAMES: {pattern!r} matches none of {'; '.join(CASES)}")
    found = set(itertools.chain(*matches.values()))
    return [name for name in CASES if name in found]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["*"], metavar="NAMES")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--format", choices=["table", "markdown", "csv"], default="table")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: must be 1 or more")
    try:
        options.names = chosen(options.names)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure models and print the table; return the exit code."""
    options = parse(arguments)
    foreign.transformers.logging.set_verbosity_error()  # of token ids that a model never sees
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows = []
    for name in options.names:
        print(name, file=sys.stderr)
        row = survey(name, seeds)
        for sentence in row["warnings"]:
            print(f"    {sentence}", file=sys.stderr)
        rows.append(row)
    readable = [cells(row) for row in rows]
    if options.format == "csv":
        print(pd.DataFrame(rows).to_csv(index=False), end="")
    elif options.format == "markdown":
        print(markdown(readable))
    else:
        print_table(readable, f"Models, seeds {seeds[0]} to {seeds[-1]}")
    return int(any(map(misses, rows)))


if __name__ == "__main__":
    sys.exit(main())
