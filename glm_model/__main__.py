"""``python -m glm_model``: name the programs."""

from . import __version__

PROGRAMS = [
    ("glm-chat", "python cli_demo.py", "chat in the terminal, in a pipe, or for one message"),
    ("glm-web", "python web_demo.py", "chat and fill blanks in the browser"),
    ("glm-fill", "python -m glm_model.fill", "fill the blanks of a text"),
    ("glm-plan", "python -m glm_model.plan", "say whether a model fits some GPUs"),
    ("glm-convert", "python -m glm_model.conversion", "quantize a checkpoint, read and write GLM-130B's archives"),
    ("glm-evaluate", "python -m glm_model.evaluation", "run lm-eval's tasks"),
]
"""Of each program its name where the package is installed, the command in a checkout, and what it does."""


def main() -> None:
    """Print what each program is called and does."""
    print(f"glm_model {__version__}. Installed by pip, or in a checkout (--help lists the options of each):\n")
    for name, command, purpose in PROGRAMS:
        print(f"  {name:13} {command:31} {purpose}")


if __name__ == "__main__":
    main()
