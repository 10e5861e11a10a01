"""Make and evaluate the demo model: its corpus, its vocabulary, its training and its evaluation.

This package is separate from `glm_model` and `app`: to serve a model, no word lists or grammars are needed.
"""

import glm_model  # noqa: F401 - answers signals before `python -m demo_recipe` imports torch
