"""Training steps of a Llama of transformers on one GPU: as it is, and with mupl's multipliers.

    python benchmarks/llama_step.py                         # 134M parameters; mup, mulinear
    python benchmarks/llama_step.py completep unit_init     # other parametrizations
    python benchmarks/llama_step.py --size 350M mup
    python benchmarks/llama_step.py --size cpu              # the same code, tiny

Weights are random, from a config; nothing is downloaded. Each step is compiled without a graph
break, in bfloat16 by autocast, with a fused AdamW and a batch that is already there. `mup`
multiplies the readout; `completep` also the residual branches, and `unit_init` every matrix;
`mulinear` multiplies tensors and their gradients by different numbers. At the base size there are
half the width and half the layers.
"""

import argparse
from functools import partial
from typing import Any

import torch
from compiled_step import print_throughput, training_step
from timing import Step, add_rows, alternate, new_table, show
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import mupl
from mupl.nn.tensors import parameters

D_HEAD = 64
TARGET = 1.01  # of a step with multipliers over one of the stock model
# of the model; "batch" is of crops of as many tokens as the model has positions
SIZES: dict[str, dict[str, int]] = {
    "134M": {"width": 768, "hidden": 2048, "depth": 12, "context": 1024, "batch": 32},
    "350M": {"width": 1024, "hidden": 2816, "depth": 24, "context": 1024, "batch": 16},
    "cpu": {"width": 128, "hidden": 352, "depth": 2, "context": 64, "batch": 4},
}


def config_of(size: dict[str, int], vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size["width"],
        intermediate_size=size["hidden"],
        num_hidden_layers=size["depth"],
        num_attention_heads=size["width"] // D_HEAD,
        max_position_embeddings=size["context"],
        use_cache=False,
        architectures=["LlamaForCausalLM"],
    )


def logits(output: Any) -> Tensor:
    return output.logits


def stock(config: LlamaConfig, crops: Tensor) -> Step:
    model = LlamaForCausalLM(config).to(crops.device)
    return training_step(model, model.parameters(), crops, logits)


def ours(parametrization: str, config: LlamaConfig, crops: Tensor) -> Step:
    base = {
        "hidden_size": config.hidden_size // 2,
        "intermediate_size": config.intermediate_size // 2,
        "num_attention_heads": config.num_attention_heads // 2,
        "num_hidden_layers": config.num_hidden_layers // 2,
    }
    setup = mupl.hf(config, base, lr=1e-4, weight_decay=0.1, parametrization=parametrization)
    model = setup.model.to(crops.device)
    groups = mupl.param_groups(parameters(model, setup.scales), setup.scales)
    return training_step(model, groups, crops, logits)


def flops_of_step(config: LlamaConfig, tokens: int) -> int:
    """6 FLOPs a token for each parameter of a matrix product, and attention's."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    multiplied = sum(layer.weight.numel() for layer in layers)
    square = config.max_position_embeddings * config.hidden_size
    return tokens * (6 * multiplied + 12 * config.num_hidden_layers * square)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("tables", nargs="*", default=["mup", "mulinear"])
    arguments.add_argument("--size", default="134M", choices=SIZES)
    arguments.add_argument("--seconds", type=float, default=20.0, help="of measuring")
    given = arguments.parse_args()

    size = SIZES[given.size]
    device = "cpu" if given.size == "cpu" else "cuda"
    vocabulary = 256 if device == "cpu" else 32000
    config = config_of(size, vocabulary)
    crops = torch.randint(vocabulary, (size["batch"], size["context"] + 1), device=device)
    makers = {"stock": partial(stock, config, crops)}
    for parametrization in given.tables:
        makers[parametrization] = partial(ours, parametrization, config, crops)
    times = alternate(makers, given.seconds, builds=1, queue=4 if device == "cuda" else 1)
    tokens = size["batch"] * size["context"]
    print_throughput(times, given.size, tokens, flops_of_step(config, tokens), device)
    table = new_table(f"A training step of a Llama of size {given.size}", device)
    targets = dict.fromkeys(given.tables, TARGET)
    add_rows(table, f"{size['depth']} layers, width {size['width']}", times, "stock", targets)
    show(table)


if __name__ == "__main__":
    main()
