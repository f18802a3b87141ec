"""The numbers of a run in the forms that other programs read: `mupl export`."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.names import block_pattern
from mupl.parametrization.scales import Scale
from mupl.road.configs import job_config, resolved
from mupl.road.cost import on_meta_setup
from mupl.road.numbers import Numbers, inexpressible
from mupl.road.recommendation import FILE
from mupl.roles import ParamInfo
from mupl.training.compose import compose
from mupl.training.config import load_data
from mupl.training.overrides import CONF
from mupl.training.setup import Setup

DEFAULT_ROTARY = 10_000.0
EPS = 1.1920929e-07  # of our RMSNorm in float32: torch's default


@dataclass(frozen=True)
class Form:
    """What a run is in the words of another program.

    Args:
        text: of the file.
        name: of the file.
        notes: sentences on what the form does not express.
    """

    text: str
    name: str
    notes: list[str]


def export(folder: Path, form: str, out: Path | None = None) -> tuple[Path, list[str]]:
    """Write the numbers of a recommendation, or of a run, in the form of another program.

    Args:
        folder: of a ladder, or of a run.
        form: one of `FORMS`.
        out: folder for the file; by default `export` in the other.

    Returns:
        The file, and sentences on what the form does not express.

    Raises:
        ConfigError: if there is no such form, no config, or numbers that the form has no place for.
    """
    if form not in FORMS:
        raise ConfigError(f"--to {form}: must be one of {', '.join(FORMS)}")
    config = config_of(folder)
    setup = on_meta_setup(config, load_data(config).model_args)
    made = FORMS[form](setup)
    out = out or folder / "export"
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / made.name, made.text)
    return out / made.name, made.notes


def config_of(folder: Path) -> DictConfig:
    """Return the config that a ladder recommends, or else the one that a run had; resolved."""
    file = folder / FILE
    if not file.exists():
        return resolved(job_config(folder))
    own: Any = OmegaConf.select(OmegaConf.load(file), "hydra.searchpath", default=[])
    return resolved(compose([], file.stem, [f"file://{CONF.resolve()}", *own], folder))


def table(setup: Setup) -> Form:
    """Return a row a tensor: what it is, its multiplier, initial std, and param group."""
    return Form(pd.DataFrame(setup.table()).to_csv(index=False), "table.csv", [])


def param_groups(setup: Setup) -> Form:
    """Return param groups by regular expressions on names, as a list of plain groups.

    A group is `{"pattern": ..., "lr": ..., "eps": ..., "weight_decay": ..., "mult": ...,
    "init_std": ...}`, under Shampoo with `"matrix_eps"`; its pattern matches whole names. Blocks
    with the same numbers share one.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, scale in setup.scales.items():
        if not isinstance(setup.infos[name], ParamInfo):
            continue
        numbers = _group(scale)
        pattern = re.escape(block_pattern(name)).replace(r"\*", r"\d+")
        if groups.setdefault(pattern, numbers) != numbers:
            groups[re.escape(name)] = numbers  # a block of its own
    own_first = sorted(groups, key=lambda pattern: r"\d+" in pattern)
    listed = [{"pattern": pattern, **groups[pattern]} for pattern in own_first]
    mults = [f"{key} {value:g}" for key, value in _multipliers(setup).items() if value != 1]
    parts = []
    if mults:
        parts.append(f"multipliers that the model must have itself ({', '.join(mults)})")
    return Form(json.dumps(listed, indent=1), "param_groups.json", inexpressible(parts))


def _group(scale: Scale) -> dict[str, Any]:
    numbers = {
        "lr": scale.lr,
        "eps": scale.eps,
        "weight_decay": scale.weight_decay,
        "mult": scale.mult,
        "init_std": scale.init.std,
    }
    if scale.matrix_eps is not None:
        numbers["matrix_eps"] = scale.matrix_eps
    return numbers


def _multipliers(setup: Setup) -> dict[str, float]:
    """Return the multipliers of tensors and branches that are not the model's own, over blocks."""
    found = {}
    for name, scale in setup.scales.items():
        found[block_pattern(name)] = scale.mult
    return found


def transformers_configs(setup: Setup) -> Form:
    """Return fields of Granite, MiniCPM and Falcon-H1 as configs of transformers have them.

    Granite's are a whole config where the model is a `mupl.models.GPT` of the same architecture
    (RMSNorm, SwiGLU, rotary positions).
    """
    numbers = Numbers.of(setup)
    notes = []
    granite = {
        **_llama_sizes(setup),
        "embedding_multiplier": numbers.embedding,
        "residual_multiplier": numbers.residual,
        "logits_scaling": 1 / numbers.output,
    }
    if numbers.attention is not None:
        granite["attention_multiplier"] = numbers.attention
    parts = ["initial stds, learning rates and weight decays (mupl export --to table has them)"]
    if numbers.others:
        parts.append(f"multipliers of {', '.join(sorted(map(block_pattern, numbers.others)))}")
    notes += inexpressible(dict.fromkeys(parts))
    configs = {"granite": granite, "minicpm": _minicpm(numbers), "falcon_h1": _falcon(numbers)}
    notes += _minicpm_notes(numbers)
    text = json.dumps(configs, indent=1)
    return Form(text, "transformers.json", notes)


def _llama_sizes(setup: Setup) -> dict[str, Any]:
    """Return the sizes of a GPT of ours as a config of transformers has them; else nothing."""
    from mupl.models.gpt import GPTConfig

    config = getattr(setup.model, "config", None)
    if not isinstance(config, GPTConfig):
        return {}
    alike = (config.norm, config.activation, config.positions) == ("rmsnorm", "swiglu", "rotary")
    if not alike or config.bias or config.qk_norm or config.post_norm or not config.norm_gain:
        return {}
    return {
        "model_type": "granite",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads // config.group_size,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tied,
        "rms_norm_eps": EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": DEFAULT_ROTARY},
    }


def _minicpm(numbers: Numbers) -> dict[str, Any]:
    """Return MiniCPM's: branches times scale_depth / sqrt(depth), logits times base over width."""
    found: dict[str, Any] = {"scale_emb": numbers.embedding}
    if numbers.depth is not None:
        found["scale_depth"] = numbers.residual * math.sqrt(numbers.depth)
    if numbers.width is not None:
        base = numbers.output * numbers.width
        if math.isclose(base, round(base), rel_tol=1e-9) and base >= 1:
            found["dim_model_base"] = round(base)
    return found


def _minicpm_notes(numbers: Numbers) -> list[str]:
    parts = []
    if numbers.d_head and not _is_stock(numbers):
        parts.append(f"the attention multiplier {numbers.attention:.4g} in MiniCPM")
    if "dim_model_base" not in _minicpm(numbers):
        parts.append(
            f"the output multiplier {numbers.output:.4g} in MiniCPM's whole dim_model_base"
        )
    return inexpressible(parts)


def _is_stock(numbers: Numbers) -> bool:
    """Say whether attention logits are divided by the square root of d_head, as others do."""
    if numbers.attention is None or numbers.d_head is None:
        return True
    return math.isclose(numbers.attention, numbers.d_head**-0.5, rel_tol=1e-6)


def _falcon(numbers: Numbers) -> dict[str, Any]:
    """Return Falcon-H1's: keys, the outputs of attention, Mamba and MLP, embeddings and logits."""
    keys = 1.0
    if numbers.attention is not None and numbers.d_head is not None:
        keys = numbers.attention * math.sqrt(numbers.d_head)
    return {
        "embedding_multiplier": numbers.embedding,
        "lm_head_multiplier": numbers.output,
        "key_multiplier": keys,
        "attention_out_multiplier": numbers.residual,
        "ssm_out_multiplier": numbers.residual,
        "mlp_multipliers": [1.0, numbers.residual],
    }


def megatron(setup: Setup) -> Form:
    """Return flags of Megatron-LM: one learning rate for the blocks, one for embedding and readout.

    What it has one flag for and here differs from tensor to tensor is said.
    """
    flags: dict[str, float] = {}
    parts: list[str] = []
    for flag, group, read in MEGATRON:
        values = _values(setup, group, read)
        if not values:
            continue
        flags[flag] = values[0]
        if len(values) > 1:
            listed = ", ".join(f"{value:.4g}" for value in values)
            parts.append(f"several values of {flag} ({listed})")
    numbers = Numbers.of(setup)
    named = {
        "embedding": numbers.embedding,
        "residual": numbers.residual,
        "output": numbers.output,
        **numbers.others,
    }
    if not _is_stock(numbers) and numbers.attention is not None:
        named["attention"] = numbers.attention
    mults = [f"{name} {value:.4g}" for name, value in named.items() if value != 1]
    if mults:
        parts.append(f"multipliers ({', '.join(mults)}; parametrization=mup_table3 has none)")
    lines = [f"{flag} {value:.6g}" for flag, value in flags.items()]
    return Form("\n".join([*lines, ""]), "megatron.txt", inexpressible(parts))


Read = Callable[[Scale], float | None]
# A flag of Megatron-LM, the tensors that it is for, and what of them it says
MEGATRON: tuple[tuple[str, str, Read], ...] = (
    ("--lr", "blocks", lambda scale: scale.lr),
    ("--decoupled-lr", "ends", lambda scale: scale.lr),
    ("--init-method-std", "matrices", lambda scale: scale.init.std),
    ("--weight-decay", "all", lambda scale: scale.weight_decay),
    ("--adam-eps", "all", lambda scale: scale.eps),
)


def _values(setup: Setup, group: str, read: Read) -> list[float]:
    """List the different values of the tensors of a group, the most frequent first.

    Args:
        group: blocks, ends (what is in no block), matrices, or all.
    """
    entries: dict[float, int] = {}
    for name, scale in setup.scales.items():
        info = setup.infos[name]
        is_in = {
            "blocks": _is_block(name),
            "ends": not _is_block(name),
            "matrices": len(info.shape) > 1,
            "all": True,
        }
        value = read(scale)
        if isinstance(info, ParamInfo) and is_in[group] and value is not None:
            entries[value] = entries.get(value, 0) + math.prod(info.shape)
    return sorted(entries, key=lambda value: -entries[value])


def _is_block(name: str) -> bool:
    return "*" in block_pattern(name)


FORMS: dict[str, Callable[[Setup], Form]] = {
    "hf": transformers_configs,
    "torchtitan": param_groups,
    "megatron": megatron,
    "table": table,
}
