"""The front-ends: a worker that owns the model, and the browser and terminal programs around it.

Nothing here is imported by `glm_model`; importing this package loads neither torch nor gradio.
"""
