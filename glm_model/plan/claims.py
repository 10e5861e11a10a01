"""Compares what the original projects say about hardware with what a plan computes."""

from collections.abc import Iterator
from dataclasses import dataclass

from .advice import largest
from .estimate import Plan, Workload, make_plan
from .gpus import parse_gpus
from .models import preset
from .placement import default_split

GLM_130B = "https://github.com/THUDM/GLM-130B (README.md, docs/quantization.md)"
CHATGLM_6B = "https://github.com/THUDM/ChatGLM-6B (README.md)"

_DIALOGUE_TOKENS = 1024
"""Tokens that we assume for the "2 to 3 rounds of dialogue" of ChatGLM-6B's table, which gives no number of tokens."""


@dataclass(frozen=True)
class Claim:
    """One line of a published hardware table.

    Attributes:
        hardware: the name that the source gives the hardware.
        gpus: the same hardware in the notation of :func:`glm_model.plan.gpus.parse_gpus`.
        model: name of a preset.
        bits: bits of a packed weight, 0 for half precision.
        context: tokens of prompt and answer that the source names.
        fits: True if the source says that the model runs there without offloading weights.
    """

    hardware: str
    gpus: str
    model: str
    bits: int
    context: int
    fits: bool = True

    @property
    def source(self) -> str:
        """Address and files of the published table."""
        return GLM_130B if self.model == "glm-130b" else CHATGLM_6B


CLAIMS = (
    # "Hardware"; the second line needs BMInf's offloading. Generation up to 2048 tokens is timed in the quantization
    # notes. "only 70GB of GPU memory approximately is required for INT4 model weights": one card of 80 GB.
    Claim("8 x A100 of 40 GB", "8x40GB", "glm-130b", 0, 2048),
    Claim("8 x V100 of 32 GB", "8x32GB", "glm-130b", 0, 2048, fits=False),
    Claim("8 x V100 of 32 GB", "8x32GB", "glm-130b", 8, 2048),
    Claim("8 x RTX 3090 of 24 GB", "8x24GB", "glm-130b", 8, 2048),
    Claim("4 x RTX 3090 of 24 GB", "4x24GB", "glm-130b", 4, 2048),
    Claim("8 x RTX 2080 Ti of 11 GB", "8x11GB", "glm-130b", 4, 2048),
    Claim("a card of 80 GB", "80GB", "glm-130b", 4, 2048),
    # "Hardware Requirements".
    Claim("a card of 13 GB", "13GB", "chatglm-6b", 0, _DIALOGUE_TOKENS),
    Claim("a card of 10 GB", "10GB", "chatglm-6b", 8, _DIALOGUE_TOKENS),
    Claim("a card of 6 GB", "6GB", "chatglm-6b", 4, _DIALOGUE_TOKENS),
)


@dataclass(frozen=True)
class Judged:
    """A claim with the plans that confirm or contradict it.

    Attributes:
        claim: the line of the table.
        plan: the plan for the claim's context.
        whole: the plan for the longest context that the model was trained for.
        longest: tokens of the longest context that fits, at most as in ``whole``; 0 if no context fits.
    """

    claim: Claim
    plan: Plan
    whole: Plan
    longest: int

    @property
    def agrees(self) -> bool:
        """Whether plan and claim agree on whether the model fits."""
        return self.plan.fits == self.claim.fits


def judge() -> Iterator[Judged]:
    """Yield every claim with its plans."""
    for claim in CLAIMS:
        config = preset(claim.model, quantization_bit=claim.bits)
        gpus = parse_gpus(claim.gpus)
        split = default_split(config, len(gpus))
        plan = make_plan(Workload(config, context=claim.context), gpus, split)
        whole = make_plan(Workload(config, context=config.max_sequence_length), gpus, split)
        longest = whole if whole.fits else largest(plan, "context", config.max_sequence_length)
        yield Judged(claim, plan, whole, longest.workload.context if longest else 0)
