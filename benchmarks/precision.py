"""What rounding costs: the perplexity of the demo model in INT8 and INT4, exact and fast, and the error of a product.

    python benchmarks/precision.py
    python benchmarks/precision.py --count 48 --folder models/demo

The perplexity is that of the right answers to held-out questions (the evaluation's), end token included. The error is
that of a product of ChatGLM-6B's width beside the same product in float64, relative in the 2-norm: activations drawn
from a normal distribution, and the same with one column in 500 a hundred times as large. Prints two tables, then one
JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from demo_recipe import corpus, evaluation, recipe
from glm_model import DEMO_MODEL, ChatGLMForCausalLM
from glm_model.kernels.dispatch import Precision, describe, quantized_matmul
from glm_model.kernels.packing import dequantize, quantize
from glm_model.loading import load, set_precision
from glm_model.training.objective import IGNORED, Example, collate, infilling_loss

PRECISIONS: tuple[Precision, ...] = ("exact", "fast")
BITS = {"int8": 8, "int4": 4}
COLUMNS, ROWS, OUTPUTS = 4096, 8, 4096
OUTLIER_EVERY, OUTLIER_FACTOR = 500, 100
BATCH = 32


def main() -> int:
    """Measure, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DEMO_MODEL, help="a demo model")
    parser.add_argument("--count", type=int, default=24, help="questions a category and language")
    arguments = parser.parse_args()
    perplexities = measure_perplexities(arguments.folder, arguments.count)
    errors = measure_errors()
    print(f"{describe('fast')}\n\n| weights | perplexity of right answers |\n| --- | ---: |")
    print(*(f"| {name} | {value:.4f} |" for name, value in perplexities.items()), sep="\n")
    print("\n| product | normal activations | with outlier columns |\n| --- | ---: | ---: |")
    print(*(f"| {name} | {' | '.join(f'{error:.2g}' for error in pair)} |" for name, pair in errors.items()), sep="\n")
    print(json.dumps({"benchmark": "precision", "perplexity": perplexities, "error": errors}))
    return 0


def measure_perplexities(folder: Path, count: int) -> dict[str, float]:
    """By the weights and the precision of the products."""
    model, tokenizer = load(folder, device="cpu")
    special = recipe.special_ids(tokenizer)
    asked = [question for language in corpus.LANGUAGES for question in evaluation.questions(language, count)]
    examples = sorted((recipe.example(question, tokenizer, special) for question in asked), key=len)
    measured = {"float32": perplexity(model, examples)}
    for weights, precision in itertools.product(BITS, PRECISIONS):
        packed, _ = load(folder, device="cpu", quantize=weights)
        set_precision(packed, precision)
        measured[f"{weights} {precision}"] = perplexity(packed, examples)
    return measured


@torch.inference_mode()
def perplexity(model: ChatGLMForCausalLM, examples: list[Example]) -> float:
    """exp of the mean loss over all predicted tokens."""
    total, count = 0.0, 0
    for start in range(0, len(examples), BATCH):
        ids, positions, targets = collate(examples[start : start + BATCH], model.config.pad_token_id)
        predicted = int((targets != IGNORED).sum())
        total += infilling_loss(model, ids, positions, targets).item() * predicted
        count += predicted
    return math.exp(total / count)


def measure_errors() -> dict[str, list[float]]:
    """By bits and precision, without and with outliers: relative to the product in float64."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(ROWS, COLUMNS, generator=generator)
    outliers = normal.clone()
    outliers[:, torch.randperm(COLUMNS, generator=generator)[: COLUMNS // OUTLIER_EVERY]] *= OUTLIER_FACTOR
    weight = torch.randn(OUTPUTS, COLUMNS, generator=generator)
    return {
        f"{name} {precision}": [error(x, *quantize(weight, bits), bits, precision) for x in (normal, outliers)]
        for (name, bits), precision in itertools.product(BITS.items(), PRECISIONS)
    }


def error(x: Tensor, packed: Tensor, scale: Tensor, bits: int, precision: Precision) -> float:
    """Of a product with packed weights."""
    expected = x.double() @ dequantize(packed, scale, bits, torch.float64).T
    return float((quantized_matmul(x, packed, scale, bits, precision) - expected).norm() / expected.norm())


if __name__ == "__main__":
    sys.exit(main())
