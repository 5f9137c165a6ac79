"""Train the tokenizer and the model: the same versions on the same kind of CPU, the same weights.

Use: `python -m story_model.train OUTPUT_FOLDER [--steps N]`
"""

import argparse
import math
import time
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from . import corpus, tokenizer
from .batches import IGNORED, batches
from .model import StoryModel

SEED = 1
STEPS = 1550
_PEAK_RATE = 7e-3
_WARM_UP_STEPS = 60
_TOKENIZER_DOCUMENTS = 20_000
_REPORT_EVERY = 100


def learning_rate(step: int, steps: int) -> float:
    """A short linear warm-up, then a cosine down to a twentieth of the peak."""
    warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return _PEAK_RATE * warm_up * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def optimizers(model: StoryModel) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the blocks, AdamW for the embedding and the norms.

    A step of Muon costs more than one of AdamW, and learns more than its cost.
    """
    matrices = [weight for weight in model.blk.parameters() if weight.dim() == 2]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    return (
        torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([model.token_embd.weight], betas=(0.9, 0.95), weight_decay=0.1),
        torch.optim.AdamW(norms, betas=(0.9, 0.95), weight_decay=0.0),
    )


def train(words: Tokenizer, steps: int) -> StoryModel:
    """A model trained for that many steps of about 1,000 tokens."""
    torch.manual_seed(SEED)
    model = StoryModel(words.get_vocab_size())
    updates = optimizers(model)
    began, recent = time.monotonic(), 0.0
    for step, (inputs, targets) in enumerate(islice(batches(words, SEED), steps)):
        logits = model(inputs)
        loss = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED
        )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for update in updates:
            for group in update.param_groups:
                group["lr"] = learning_rate(step, steps)
            update.step()
            update.zero_grad()
        recent += loss.item() / _REPORT_EVERY
        if (step + 1) % _REPORT_EVERY == 0:
            seconds = time.monotonic() - began
            print(f"step {step + 1}/{steps}  loss {recent:.3f}  {seconds:.0f} s", flush=True)
            recent = 0.0
    return model


def main() -> None:
    """Write `tokenizer.json` and `weights.pt` into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order: the result does not depend on the machine's load
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    words = tokenizer.train(islice(corpus.documents(SEED), _TOKENIZER_DOCUMENTS))
    words.save(str(arguments.output / "tokenizer.json"))
    model = train(words, arguments.steps)
    torch.save(model.state_dict(), arguments.output / "weights.pt")


if __name__ == "__main__":
    main()
