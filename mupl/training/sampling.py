"""Text that a language model writes when its training has ended."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from mupl.data.text import Tokens
from mupl.files import write_atomically
from mupl.models import GPT
from mupl.training.setup import Setup

SAMPLE_FILE = "sample.txt"


def write_sample(setup: Setup, splits: Any, cfg: DictConfig, folder: Path) -> str | None:
    """Let a GPT go on from a prompt, and write the text into the run's folder and return it.

    None for models and data that have no text, and where `sample.tokens` is 0.

    Args:
        cfg: the entry `sample` of a run's config: tokens, temperature, top_k, prompt.
    """
    tokenizer = splits.tokenizer if isinstance(splits, Tokens) else None
    model = setup.model
    if tokenizer is None or not isinstance(model, GPT) or not cfg.tokens:
        return None
    tokens = tokenizer.encode(cfg.prompt) or splits.val[:1].tolist()
    device = next(model.parameters()).device
    prompt = torch.tensor(tokens, device=device)[None]
    generator = torch.Generator(device).manual_seed(0)
    training = model.training
    model.eval()
    # each length would be compiled anew
    with torch.compiler.set_stance("force_eager"):
        written = model.generate(
            prompt, cfg.tokens, cfg.temperature, top_k=cfg.top_k, generator=generator
        )
    model.train(training)
    text = tokenizer.decode(written[0].tolist())
    write_atomically(folder / SAMPLE_FILE, text)  # the same text in every process
    return text
