"""`mupl.hf`: a setup from a config of transformers and the fields that differ at the base."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import mupl
from mupl.parametrization.tables import TABLES
from mupl.training.hf import output_loss
from tests.foreign import TOKENS, transformers


def config(**fields: Any) -> Any:
    given = {
        "vocab_size": 11,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "max_position_embeddings": 16,
        "architectures": ["LlamaForCausalLM"],
    }
    return transformers.LlamaConfig(**{**given, **fields})


BASE = {"hidden_size": 16, "intermediate_size": 44, "num_attention_heads": 2}


def test_it_is_the_setup_of_the_model_built_by_hand() -> None:
    def build(width: int) -> torch.nn.Module:
        sizes = {64: {}, 16: BASE, 32: {n: 2 * value for n, value in BASE.items()}}[width]
        return transformers.LlamaForCausalLM(config(**sizes))

    by_hand = mupl.Setup(build, 64, base_width=16, lr=0.01)
    setup = mupl.hf(config(), BASE, lr=0.01)
    assert setup.infos == by_hand.infos
    assert setup.scales == by_hand.scales
    for name, value in setup.model.state_dict().items():
        assert torch.equal(value, by_hand.model.state_dict()[name]), name


def test_what_follows_from_other_fields_follows_at_the_base() -> None:
    """The size of a head is 8 at both sizes with more heads, and grows with fewer."""
    assert "model.layers.0.self_attn.attention_scale" not in mupl.hf(config(), BASE, lr=0.1).infos
    base = {"hidden_size": 16, "intermediate_size": 44}
    infos = mupl.hf(config(), base, lr=0.1).infos
    assert infos["model.layers.0.self_attn.attention_scale"].m_in == 4
    fixed = mupl.hf(config(head_dim=12), base, lr=0.1)
    assert fixed.model.config.head_dim == 12
    assert "model.layers.0.self_attn.attention_scale" not in fixed.infos


def test_depth_comes_from_the_number_of_layers() -> None:
    setup = mupl.hf(config(), {**BASE, "num_hidden_layers": 2}, lr=0.1, parametrization="completep")
    assert setup.infos["model.layers.3.mlp.output_scale"].m_L == 2
    assert len(setup.model.model.layers) == 4
    assert setup.warnings == []
    with pytest.raises(mupl.ConfigError, match="base_depth"):
        mupl.hf(config(), BASE, lr=0.1, parametrization="completep")


def test_other_names_of_fields() -> None:
    fields = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 64, "n_layer": 2, "n_head": 4}
    one = mupl.hf(fields, {"n_embd": 16, "n_layer": 1}, lr=0.1)
    other = mupl.hf(fields, {"hidden_size": 16, "num_hidden_layers": 1}, lr=0.1)
    assert one.infos == other.infos
    assert one.infos["transformer.h.1.attn.c_attn.weight"].m_L == 2


def test_an_encoder_with_a_decoder() -> None:
    t5 = transformers.T5Config(
        vocab_size=11, d_model=64, d_ff=96, num_layers=2, num_heads=8, d_kv=8
    )
    setup = mupl.hf(t5, {"d_model": 16, "d_ff": 24, "num_heads": 2, "num_layers": 1}, lr=0.1)
    assert type(setup.model).__name__ == "T5ForConditionalGeneration"
    assert len(setup.model.decoder.block) == 2
    assert setup.infos["decoder.block.1.layer.2.DenseReluDense.wo.weight"].m_L == 2
    assert setup.scales["lm_head"].inserted == 0.5


def test_the_class_of_the_model_can_be_said(tmp_path: Path) -> None:
    config().save_pretrained(tmp_path)
    from_folder = mupl.hf(tmp_path, BASE, lr=0.1)
    assert type(from_folder.model) is transformers.LlamaForCausalLM
    classes = ("LlamaModel", transformers.LlamaModel, transformers.AutoModel)
    for model_class in classes:
        setup = mupl.hf(config(), BASE, lr=0.1, model_class=model_class)
        assert type(setup.model) is transformers.LlamaModel


def test_the_loss_is_the_models_or_of_its_logits() -> None:
    setup = mupl.hf(config(), BASE, lr=0.1)
    assert setup.loss.function is output_loss
    output = setup.model(TOKENS)
    flat = torch.nn.functional.cross_entropy(output.logits.view(-1, 11), TOKENS.view(-1))
    assert setup.loss(output, TOKENS) == flat
    with_loss = setup.model(TOKENS, labels=TOKENS)
    assert setup.loss(with_loss, TOKENS) is with_loss.loss
    assert mupl.hf(config(), BASE, lr=0.1, loss=flat.add).loss.function == flat.add


@pytest.mark.parametrize(
    ("given", "base", "options", "message"),
    [
        (config(), {"hidden_dim": 16}, {}, "base: a LlamaConfig has no field 'hidden_dim'"),
        ({"hidden_size": 16}, BASE, {}, "config: must be a PretrainedConfig, a dict"),
        ("no/such_folder", BASE, {}, "config: must be a PretrainedConfig, a dict"),
        (config(), BASE, {"model_class": "Lama"}, "model_class=Lama: transformers has no such"),
    ],
)
def test_bad_input_is_one_clear_error(given: Any, base: Any, options: Any, message: str) -> None:
    with pytest.raises(mupl.ConfigError, match=message):
        mupl.hf(given, base, lr=0.1, **options)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mupl\[models\]'"):
        mupl.hf({}, {}, lr=0.1)


def test_it_trains_and_folds() -> None:
    setup = mupl.hf(config(), {"hidden_size": 16, "intermediate_size": 44}, lr=0.01)
    optimizer = setup.optimizer()
    losses = []
    for _ in range(20):
        loss = setup.model(TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    torch.testing.assert_close(setup.fold()(TOKENS).logits, setup.model(TOKENS).logits)


@pytest.mark.slow
@pytest.mark.parametrize("table", [name for name in TABLES if name != "umup_output_scale"])
def test_a_model_with_multipliers_compiles_once_and_whole(table: str) -> None:
    """Without a graph break, and not again when a module has noted that its multiplier acts."""
    base = {"hidden_size": 16, "intermediate_size": 44, "num_hidden_layers": 1}
    setup = mupl.hf(config(num_hidden_layers=2), base, lr=0.01, parametrization=table)
    torch.compiler.reset()  # what was compiled of other models counts towards a limit
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(setup.model, backend=counter, fullgraph=True)
    expected = copy.deepcopy(setup.model)(TOKENS).logits  # the compiled one has not been called
    optimizer = setup.optimizer()
    for step in range(2):
        loss = setup.loss(compiled(TOKENS), TOKENS)
        if step == 0:
            torch.testing.assert_close(compiled(TOKENS).logits, expected)
        loss.backward()
        optimizer.step()
    assert counter.frame_count == 1
