"""Models that nobody here wrote, unmodified and made from a config: nothing is downloaded."""

import copy
import pickle
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import pytest
import torch
from torch import nn

import mupl
from mupl.roles import MultiplierInfo, ParamInfo, Role
from tests import foreign
from tests.foreign import TOKENS, transformers


def narrow_heads(build: Callable[..., nn.Module], **options: Any) -> Callable[..., nn.Module]:
    """Let a model have heads of a fixed size, whose number grows."""
    return update_wrapper(partial(build, d_head=8, **options), build)


gpt2 = narrow_heads(foreign.gpt2)
llama = narrow_heads(foreign.llama, tie_word_embeddings=True)
mixtral = narrow_heads(foreign.mixtral)
bert = narrow_heads(foreign.bert)
t5 = narrow_heads(foreign.t5)
mamba = foreign.mamba
vit = narrow_heads(foreign.timm_vit)
convnext = foreign.timm_convnext

BUILDS = [gpt2, llama, mixtral, bert, t5, mamba, vit, convnext]
ROLES = {build: {} for build in BUILDS}
ROLES[mixtral] = foreign.ROLES[foreign.mixtral]
ROLES[mamba] = foreign.ROLES[foreign.mamba]


def initialised(build: Callable[..., nn.Module], width: int, base: int = 16) -> tuple:
    infos = mupl.describe(build, width, base, roles=ROLES[build])
    scales = mupl.scale(infos, "mup", "adam", lr=0.01)
    torch.manual_seed(0)
    model = build(width)
    own = {name: w.detach().clone() for name, w in model.named_parameters()}
    return infos, scales, own, mupl.initialize_(model, scales).eval()


def names(build: Callable[..., nn.Module]) -> str:
    return build.__name__


@pytest.mark.parametrize("build", ROLES, ids=names)
def test_the_stock_model_at_the_base_width_is_the_stock_model(build: Any) -> None:
    _, scales, own, model = initialised(build, 16)
    for name, w in model.named_parameters():
        assert torch.equal(w, own[name]), name
    groups = mupl.param_groups(model, scales)
    assert {name for group in groups for name, _ in group["params"]} == set(own)


@pytest.mark.parametrize("build", ROLES, ids=names)
def test_wider_models_copy_pickle_and_know_their_multipliers(build: Any) -> None:
    _, scales, _, model = initialised(build, 64)
    mupl.param_groups(model, scales)
    state = model.state_dict()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for name, value in other.state_dict().items():
            assert torch.equal(value, state[name]), name
    _, _, _, narrow_base = initialised(build, 64, base=32)
    with pytest.raises(mupl.ConfigError, match="it was saved under the multiplier"):
        narrow_base.load_state_dict(state)


@pytest.mark.parametrize("build", ROLES, ids=names)
def test_a_model_that_is_there_is_described_as_its_function_is(build: Any) -> None:
    roles = ROLES[build]
    expected = mupl.describe(build, 64, 16, roles=roles)
    live = mupl.describe(build(64), base=build(16), delta=build(32), roles=roles)
    assert list(live) == list(expected)
    for name, info in expected.items():
        found = live[name]
        assert (found.row, found.symbols | {"sigma": 1}) == (
            info.row,
            info.symbols | {"sigma": 1},
        )
        if isinstance(info, ParamInfo) and info.own and info.own.ratio is not None:
            assert isinstance(found, ParamInfo)
            assert found.own is not None
            assert found.own.ratio in (None, pytest.approx(info.own.ratio)), name


@pytest.mark.parametrize("build", [llama, mixtral], ids=names)
def test_models_of_transformers_need_no_values(build: Any) -> None:
    expected = mupl.describe(build, 64, 16, roles=ROLES[build])
    with torch.device("meta"):
        model, base = build(64), build(16)
    live = mupl.describe(model, base=base, roles=ROLES[build])
    for name, info in expected.items():
        if isinstance(info, ParamInfo):
            found = live[name]
            assert isinstance(found, ParamInfo)
            assert found.init == info.init
            assert found.own is not None
            assert info.own is not None
            assert found.own.ratio == info.own.ratio


def test_configs_of_transformers_serve_as_widths() -> None:
    def config(width: int) -> Any:
        return transformers.GPT2Config(
            vocab_size=11, n_positions=8, n_embd=width, n_layer=1, n_head=width // 8
        )

    build = transformers.GPT2LMHeadModel
    infos = mupl.describe(build, config(64), config(16))
    assert infos == mupl.describe(gpt2, 64, 16)
    with pytest.raises(mupl.ConfigError, match="wider: the model has the sizes of its base"):
        mupl.describe(build, config(16), config(16))


@pytest.mark.parametrize(
    ("build", "readout"),
    [
        (gpt2, "lm_head"),
        (llama, "lm_head"),
        (bert, "cls.predictions.decoder"),
        (t5, "lm_head"),
        (mamba, "lm_head"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tied_readouts_are_found(build: Any, readout: str) -> None:
    infos, scales, own, model = initialised(build, 64)
    info = infos[readout]
    assert isinstance(info, MultiplierInfo)
    assert info.tensor is not None
    factor = 0.5 if build is t5 else 0.25  # T5 itself divides by width^1/2
    assert (info.m_in, scales[readout].mult / info.value) == (4, 0.25)
    assert scales[readout].inserted == factor
    assert infos[info.tensor].row == "input_embedding"
    x = torch.randn(3, 64)
    layer = model.get_submodule(readout)
    expected = nn.functional.linear(x, factor * own[info.tensor], layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_experts_are_matrices_of_their_own() -> None:
    infos, _, own, model = initialised(mixtral, 64)
    experts = {name: info for name, info in infos.items() if "experts" in name}
    assert {(info.role, info.m_in, info.m_out) for info in experts.values()} == {
        (Role.HIDDEN, 4, 4)
    }
    for name in experts:  # a constant std of 0.02 becomes one of fan_in^-1/2
        torch.testing.assert_close(model.get_parameter(name), own[name] / 2, rtol=0.1, atol=1e-3)


def test_experts_whose_number_grows_are_those_of_the_base_and_more() -> None:
    infos = mupl.describe(lambda width: mixtral(width, num_local_experts=width // 8), 64, 16)
    scales = mupl.scale(infos, "mup", "adam", lr=0.01)
    mlp = "model.layers.0.mlp"
    assert (
        infos[f"{mlp}.gate.weight"].role is Role.HIDDEN
    )  # of a fixed number it has to be asked for
    for leaf in ("gate_up_proj", "down_proj"):
        info = infos[f"{mlp}.experts.{leaf}"]
        assert isinstance(info, ParamInfo)
        assert (info.role, info.m_in, info.m_out, info.m_copies) == (Role.HIDDEN, 4, 4, 4)
        assert scales[f"{mlp}.experts.{leaf}"].eps == scales[f"{mlp}.gate.weight"].eps / 4


def test_matrices_of_gpt2_are_stored_as_in_by_out() -> None:
    infos = mupl.describe(gpt2, 64, 16)
    info = infos["transformer.h.0.attn.c_attn.weight"]
    assert (info.role, info.fan_in, info.fan_out) == (Role.HIDDEN, 64, 3 * 64)


def test_values_that_are_no_distribution_live() -> None:
    infos, _, own, model = initialised(mamba, 64)
    name = next(name for name in infos if name.endswith("A_log"))
    assert infos[name].kept
    assert torch.equal(model.get_parameter(name), own[name])
    _, _, _, tied = initialised(bert, 64)
    assert tied.bert.embeddings.word_embeddings.weight[0].abs().max() == 0  # the padding row


def logits_change(build: Callable[..., nn.Module], width: int) -> float:
    """Mean change of the logits in three steps of Adam."""
    infos = mupl.describe(build, width, 32)
    scales = mupl.scale(infos, "mup", "adam", lr=0.004)
    changes = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = mupl.initialize_(build(width), scales)
        optimizer = torch.optim.Adam(mupl.param_groups(model, scales))
        before = model(TOKENS).logits.detach()
        for _ in range(3):
            optimizer.zero_grad()
            model(input_ids=TOKENS, labels=TOKENS).loss.backward()
            optimizer.step()
        changes.append((model(TOKENS).logits - before).abs().mean().item())
    return sum(changes) / 3


@pytest.mark.slow
@pytest.mark.parametrize("build", [gpt2, llama], ids=names)
def test_the_logits_of_tied_models_do_not_blow_up(build: Any) -> None:
    small, large = (logits_change(build, width) for width in (32, 256))
    assert large < 1.3 * small


@pytest.mark.slow
def test_a_model_saves_and_loads_in_its_own_way(tmp_path: Any) -> None:
    _, _, _, model = initialised(gpt2, 64)
    model.save_pretrained(tmp_path)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    for name, w in again.named_parameters():
        assert torch.equal(w, model.get_parameter(name))
