"""Provide the two front-ends, the browser chat and the terminal chat, and the engine that both use.

`serving` owns the model and runs it, `web` is the browser page, `terminal` the terminal program. `glm_model` imports
nothing from here. Importing this package alone loads neither torch nor gradio.
"""
