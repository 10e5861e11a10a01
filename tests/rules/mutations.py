"""Break one rule at a time and see that the tests of that rule, and no others, say so:

    python -m tests.rules.mutations [WORD ...]     those whose rule holds one of the words; all without any

Each mutation replaces one piece of the package's text in a copy and runs ``tests/rules`` there. At least one test must
fail, and all that fail must bear the rule's name: a piece of the name of the test (``file::function``). Text that has
moved or was rewritten is reported by ``test_mutations.py``; give the new one here.
"""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Imported once, before the copies are; a mutation costs no more than importing the package and running its tests.
LIBRARIES = [
    "pytest",
    "torch",
    "transformers",
    "transformers.generation",
    "transformers.modeling_utils",
    "sentencepiece",
]
NEEDED = ["glm_model", "tests/rules", "tests/conftest.py", "tests/data/golden/tokenizer", "pyproject.toml"]


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Args:
        file: in ``glm_model``.
        old: text that occurs there exactly once.
        new: what stands there instead.
        rule: pieces of the names of the tests that must notice, split by `|`; the first one names the rule, and a test
            that bears it must be among those that fail.
    """

    file: str
    old: str
    new: str
    rule: str

    @property
    def names(self) -> list[str]:
        return self.rule.split("|")


ROTARY, POSITIONS, MASKS = "model/rotary.py", "model/positions.py", "model/masking.py"
ATTENTION, LAYERS, DECODER = "model/attention.py", "model/layers.py", "model/decoder.py"
CONFIGURATION, ROUNDING, PACKING = "model/configuration.py", "model/rounding.py", "kernels/packing.py"
CHAT_FORMAT, SENTENCEPIECE, TOKENIZER = "text/chat_format.py", "text/sentencepiece_text.py", "text/tokenizer.py"
CHAT, BEAMS = "generation/chat.py", "generation/published_beams.py"
SAT_BEAMS, SAT_SAMPLING, FILLING = "blank_filling/beam_search.py", "blank_filling/sampling.py", "blank_filling/text.py"

MUTATIONS = [
    # Rotary positions.
    Mutation(
        ROTARY, "torch.cat([-second, first], dim=-1)", "torch.cat([second, -first], dim=-1)", "rotary_sign|rotary"
    ),
    Mutation(ROTARY, "states.chunk(2, dim=-1)", "(states[..., ::2], states[..., 1::2])", "not_interleaved|rotary"),
    Mutation(
        ROTARY, "return angles.cos().to(dtype), angles.sin()", "return angles.sin().to(dtype), angles.cos()", "rotary"
    ),
    Mutation(
        ROTARY,
        "(1.0 / ROTARY_BASE**exponent).half().float()",
        "1.0 / ROTARY_BASE**exponent",
        "frequencies_are_rounded_to_half|rotary",
    ),
    Mutation(
        ROTARY, "ROTARY_BASE = 10000.0", "ROTARY_BASE = 1000.0", "rotary_frequencies|rotary|frequencies_of_the_file"
    ),
    Mutation(
        ROTARY,
        "angle_dtype = dtype if rounds_angle else torch.float32",
        "angle_dtype = torch.float32",
        "rotary_angle_itself_is_rounded",
    ),
    Mutation(
        ROTARY,
        "rounds_angle = dtype == torch.float16 and",
        "rounds_angle = dtype != torch.float32 and",
        "rotary_angle_is_not_rounded",
    ),
    Mutation(
        ROTARY,
        "position_ids.view(len(position_ids), self.rows, -1)",
        "position_ids.view(len(position_ids), self.rows, -1).flip(1)",
        "block_positions|rotary",
    ),
]
