"""Published checkpoint formats: key names of ChatGLM-6B (keys) and GLM-130B's own archives (sat)."""
