"""The numbers of a run in other programs' forms: their models compute what ours does."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor, nn

import mupl
from mupl.cli import main
from mupl.errors import ConfigError
from mupl.models import GPT
from mupl.road.export import megatron, param_groups, transformers_configs
from mupl.road.numbers import Numbers
from tests.commands import IGNORED, train_here

pytestmark = IGNORED
transformers = pytest.importorskip("transformers")

TOKENS = torch.arange(24).view(2, 12) % 50
MULTS = {"input_mult": 3.0, "output_mult": 2.0, "residual_mult": 0.5, "attention_mult": 0.7}


def build(width: int, depth: int, **options: Any) -> GPT:
    given = {"norm": "rmsnorm", "activation": "swiglu", "mlp_ratio": 2.0, **MULTS, **options}
    return GPT(50, 16, width, depth=depth, heads=2, d_head=None, **given)


def setup_of(parametrization: str = "completep", **options: Any) -> mupl.Setup:
    return mupl.Setup(
        lambda width, depth: build(width, depth, **options),
        64,
        base_width=16,
        depth=4,
        base_depth=2,
        parametrization=parametrization,
        optimizer="adamw",
        lr=1e-2,
        weight_decay=0.1,
    )


def raw(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that the optimizer sees, without multipliers."""
    return {name: w.detach() for name, w in model.named_parameters()}


def granite_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a GPT by the names that Granite has for them."""
    found = {
        "model.embed_tokens.weight": weights["embedding.weight"],
        "model.norm.weight": weights["norm.weight"],
        "lm_head.weight": weights["readout.weight"],
    }
    for name, w in weights.items():
        if not name.startswith("blocks."):
            continue
        _, block, rest = name.split(".", 2)
        into = f"model.layers.{block}."
        parts = {
            "attention_norm.weight": ["input_layernorm.weight"],
            "attention.query.weight": ["self_attn.q_proj.weight"],
            "attention.key_value.weight": ["self_attn.k_proj.weight", "self_attn.v_proj.weight"],
            "attention.out.weight": ["self_attn.o_proj.weight"],
            "mlp_norm.weight": ["post_attention_layernorm.weight"],
            "mlp.up.weight": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
            "mlp.down.weight": ["mlp.down_proj.weight"],
        }[rest]
        for part, piece in zip(parts, w.chunk(len(parts)), strict=True):
            found[into + part] = piece
    return found


@pytest.mark.parametrize("parametrization", ["mup", "completep", "depth_mup"])
def test_granite_computes_what_our_gpt_does(parametrization: str) -> None:
    setup = setup_of(parametrization)
    form = transformers_configs(setup)
    fields = json.loads(form.text)["granite"]
    granite = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**fields)
    )
    granite.load_state_dict(granite_names(raw(setup.model)))
    ours = setup.model.eval()(TOKENS)
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(granite.eval()(TOKENS).logits, ours, rtol=1e-5, atol=1e-5)
    assert fields["logits_scaling"] == 2.0  # 4 of the width over 2 of the model's own


def stock(kind: str, width: int, depth: int) -> dict[str, Any]:
    sizes = {"vocab_size": 50, "hidden_size": width, "intermediate_size": 2 * width}
    sizes |= {"num_hidden_layers": depth, "max_position_embeddings": 64}
    if kind == "granite":  # whose heads grow
        sizes |= {"num_attention_heads": 4, "attention_multiplier": (width / 4) ** -0.5}
        return sizes | {"tie_word_embeddings": False}
    sizes |= {"num_attention_heads": width // 16, "num_key_value_heads": width // 16}
    latent = {"kv_lora_rank": width // 4, "q_lora_rank": width // 4}
    latent |= {"qk_nope_head_dim": 8, "v_head_dim": 16}
    own = {"scale_emb": 2, "scale_depth": depth**0.5, "dim_model_base": width}
    return {**sizes, **latent, **own, "qk_rope_head_dim": 8, "tie_word_embeddings": False}


@pytest.mark.parametrize("kind", ["granite", "minicpm3"])
def test_a_model_of_transformers_with_our_fields_computes_what_it_does_under_mupl(
    kind: str,
) -> None:
    fields = stock(kind, 64, 4)
    small = stock(kind, 16, 2)
    base = {key: value for key, value in small.items() if value != fields[key]}
    config = transformers.AutoConfig.for_model(kind, **fields)
    setup = mupl.hf(config, base=base, parametrization="completep", lr=1e-3)
    key = "minicpm" if kind == "minicpm3" else kind
    exported = json.loads(transformers_configs(setup).text)[key]
    other = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind, **{**fields, **exported})
    )
    assert exported != {key: fields.get(key) for key in exported}
    other.load_state_dict(raw(setup.model))
    ours = setup.model.eval()(TOKENS).logits
    torch.testing.assert_close(other.eval()(TOKENS).logits, ours, rtol=1e-5, atol=1e-5)


def test_falcon_has_a_multiplier_for_each_number() -> None:
    numbers = Numbers.of(setup_of())
    fields = json.loads(transformers_configs(setup_of()).text)["falcon_h1"]
    config = transformers.FalconH1Config(**fields)
    assert numbers.d_head == 32
    assert numbers.attention == pytest.approx(config.key_multiplier / 32**0.5)
    assert config.embedding_multiplier == 3
    assert config.lm_head_multiplier == 0.5
    assert config.mlp_multipliers == [1, 0.25]
    assert config.attention_out_multiplier == 0.25


def test_what_a_form_does_not_express_is_said() -> None:
    [first, *rest] = transformers_configs(setup_of()).notes
    assert first.startswith("not expressed: initial stds, learning rates and weight decays")
    assert any("the attention multiplier" in note and "in MiniCPM" in note for note in rest)
    [of_table9, *_] = transformers_configs(setup_of("mup_table9")).notes
    assert "multipliers of blocks.*.attention_norm.weight" in of_table9
    [flags] = megatron(setup_of("mup")).notes
    assert "multipliers (embedding 3, residual 0.5, output 0.5, attention " in flags
    assert "several values of --lr (0.0025, 0.01)" in flags


def test_patterns_give_each_tensor_its_group() -> None:
    setup = setup_of("mup_table3", **dict.fromkeys(MULTS, 1.0))
    groups = json.loads(param_groups(setup).text)
    assert len(groups) < len(setup.scales)
    rates = {}
    for group in mupl.param_groups(setup.model, setup.scales):
        for name, _ in group["params"]:
            rates[name] = (group["lr"], group["weight_decay"])
    for name, _ in setup.model.named_parameters():
        [found] = [group for group in groups if re.fullmatch(group["pattern"], name)]
        assert (found["lr"], found["weight_decay"]) == pytest.approx(rates[name])
        assert found["init_std"] == setup.scales[name].init.std


def test_megatron_has_one_rate_for_blocks_and_one_for_both_ends() -> None:
    lines = dict(line.split() for line in megatron(setup_of("mup")).text.splitlines())
    assert float(lines["--lr"]) == 0.01 / 4
    assert float(lines["--decoupled-lr"]) == 0.01


def test_unit_scaling_has_no_other_form() -> None:
    setup = mupl.Setup(
        lambda width, depth: GPT(
            50, 16, width, depth=depth, d_head=8, unit_scaling=True, norm_gain=False
        ),
        32,
        base_width=16,
        depth=2,
        base_depth=2,
        parametrization="umup",
        lr=0.1,
    )
    with pytest.raises(ConfigError, match="export: unit-scaled operations"):
        transformers_configs(setup)


def test_a_run_is_exported_from_its_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = "model=gpt data=text width=16 base_width=8 model.d_head=8 max_steps=1 trainer=cpu"
    done = train_here(capfd, *given.split(), f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0
    for form in ("hf", "torchtitan", "megatron", "table"):
        with pytest.raises(SystemExit) as ended:
            main(["export", str(tmp_path), "--to", form])
        assert not ended.value.code
        [file] = (tmp_path / "export").iterdir()
        assert str(file) in capfd.readouterr().out
        if form == "table":
            written = pd.read_csv(tmp_path / "parametrization.csv")
            pd.testing.assert_frame_equal(pd.read_csv(file), written)
        shutil.rmtree(tmp_path / "export")


def test_a_recommendation_is_exported_with_configs_of_ones_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a ladder leaves it: a main config beside mupl's, which may name the user's folder."""
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: mupl.models.MLP\n_partial_: true\n")
    recommended = {
        "defaults": ["train", "_self_", {"override /model": "mine"}],
        "width": 32,
        "lr": 0.25,
        "hydra": {"searchpath": [f"file://{tmp_path / 'conf'}"]},
    }
    (tmp_path / "recommendation.yaml").write_text(yaml.safe_dump(recommended))
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path), "--to", "table"])
    assert not ended.value.code
    written = pd.read_csv(tmp_path / "export/table.csv").set_index("name")
    assert written.loc["layers.0.weight", ["shape", "lr"]].tolist() == ["32x64", 0.25]


WRONG = {
    "export nowhere --to hf": "nowhere: there is no such folder",
    "export . --to onnx": "--to onnx: must be one of hf, torchtitan, megatron, table",
    "export tests --to hf": "tests/.hydra/config.yaml: is missing",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_export_is_one_clear_line(text: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(text.split())
    assert f"error: {WRONG[text]}" in str(ended.value.code)
