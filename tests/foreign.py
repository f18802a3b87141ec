"""Models that nobody here wrote, as functions of width and depth: nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

TOKENS = torch.arange(16).view(2, 8) % 11
IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).sin().view(2, 3, 8, 8)


def heads_of(width: int, d_head: int | None) -> int:
    """Number of heads: two whose size grows, or as many of a size as there is room for."""
    return 2 if d_head is None else width // d_head


def gpt2(width: int, depth: int = 1, d_head: int | None = None, **options: Any) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=11,
        n_positions=8,
        n_embd=width,
        n_layer=depth,
        n_head=heads_of(width, d_head),
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        **options,
    )
    return transformers.GPT2LMHeadModel(config)


def llama(width: int, depth: int = 1, d_head: int | None = None, **options: Any) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=11,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads_of(width, d_head),
        max_position_embeddings=8,
        **options,
    )
    return transformers.LlamaForCausalLM(config)


def qwen3(width: int, depth: int = 1, **options: Any) -> nn.Module:
    config = transformers.Qwen3Config(
        vocab_size=11,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=width // 2,
        max_position_embeddings=8,
        **options,
    )
    return transformers.Qwen3ForCausalLM(config)


def mixtral(
    width: int, depth: int = 1, d_head: int | None = None, num_local_experts: int = 3
) -> nn.Module:
    config = transformers.MixtralConfig(
        vocab_size=11,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads_of(width, d_head),
        num_key_value_heads=heads_of(width, d_head),
        num_local_experts=num_local_experts,
        max_position_embeddings=8,
    )
    return transformers.MixtralForCausalLM(config)


def bert(
    width: int, depth: int = 1, d_head: int | None = None, task: str = "MaskedLM"
) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=11,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads_of(width, d_head),
        intermediate_size=2 * width,
        max_position_embeddings=8,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        num_labels=11,
    )
    return getattr(transformers, f"BertFor{task}")(config)


def t5(width: int, depth: int = 1, d_head: int | None = None, **options: Any) -> nn.Module:
    heads = heads_of(width, d_head)
    config = transformers.T5Config(
        vocab_size=11,
        d_model=width,
        d_kv=width // heads,
        d_ff=2 * width,
        num_layers=depth,
        num_heads=heads,
        dropout_rate=0,
        decoder_start_token_id=0,
        **options,
    )
    return transformers.T5ForConditionalGeneration(config)


def mamba(width: int, depth: int = 1) -> nn.Module:
    config = transformers.MambaConfig(
        vocab_size=11, hidden_size=width, num_hidden_layers=depth, state_size=4
    )
    return transformers.MambaForCausalLM(config)


def vit(width: int, depth: int = 1, d_head: int | None = None) -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads_of(width, d_head),
        intermediate_size=2 * width,
        image_size=8,
        patch_size=4,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        num_labels=11,
    )
    return transformers.ViTForImageClassification(config)


def timm_vit(width: int, depth: int = 1, d_head: int | None = None, **options: Any) -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=8,
        patch_size=4,
        num_classes=11,
        embed_dim=width,
        depth=depth,
        num_heads=heads_of(width, d_head),
        **options,
    )


def torchvision_vit(width: int, depth: int = 1, stock: bool = False) -> nn.Module:
    """Its own readout, which starts at 0, is drawn unless the stock model is asked for."""
    model = torchvision.models.VisionTransformer(
        image_size=8,
        patch_size=4,
        num_layers=depth,
        num_heads=2,
        hidden_dim=width,
        mlp_dim=2 * width,
        num_classes=11,
    )
    if not stock:
        nn.init.normal_(model.heads.head.weight, std=width**-0.5)
    return model


def torchvision_resnet(width: int) -> nn.Module:
    """Its channels grow inside of the blocks only; between them torchvision fixes their number."""
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=11, width_per_group=width)


class WideResNet(torchvision.models.ResNet):
    """A ResNet of torchvision with 4 * width channels in each stage, behind its stem of 64."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
        self.fc = nn.Linear(4 * width, 11)

    def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
        return super()._make_layer(block, self.width, *args, **options)


def torchvision_convnext(width: int) -> nn.Module:
    stage = torchvision.models.convnext.CNBlockConfig
    stages = [stage(width, width, 1), stage(width, None, 1)]
    return torchvision.models.ConvNeXt(stages, num_classes=11)


def timm_convnext(width: int) -> nn.Module:
    return timm.models.ConvNeXt(num_classes=11, depths=(1, 1, 1, 1), dims=(width,) * 4)


def timm_resnet(width: int) -> nn.Module:
    """It has 4 * width channels in each stage, behind its stem of 64."""
    block = timm.models.resnet.Bottleneck
    return timm.models.ResNet(block, (1, 1, 1, 1), num_classes=11, channels=(width,) * 4)


def timm_mixer(width: int, depth: int = 1) -> nn.Module:
    return timm.models.MlpMixer(
        num_classes=11, img_size=8, patch_size=4, num_blocks=depth, embed_dim=width
    )


class Encoder(nn.Module):
    """A torch `TransformerEncoder` between an embedding and a readout."""

    def __init__(self, width: int, depth: int = 1, d_head: int | None = None) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width,
            heads_of(width, d_head),
            2 * width,
            dropout=0,
            batch_first=True,
            norm_first=True,
        )
        self.embedding = nn.Embedding(11, width)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.norm(self.encoder(self.embedding(tokens))))


ROLES: dict[Callable[..., nn.Module], dict[str, str]] = {
    mixtral: {"*gate.weight": "output"},
    mamba: {"*A_log": "input"},
    vit: {"*cls_token": "input", "*position_embeddings": "input"},
    timm_vit: {"pos_embed": "input"},
    torchvision_vit: {"class_token": "input", "*pos_embedding": "input"},
}


def output(model: nn.Module) -> Tensor:
    """Run a model on tokens or images and return its logits."""
    name = type(model).__name__
    if "Vi" in name:
        found = model(IMAGES)
    elif "T5" in name:
        found = model(input_ids=TOKENS, decoder_input_ids=TOKENS)
    else:
        found = model(TOKENS)
    return found if isinstance(found, Tensor) else found.logits
