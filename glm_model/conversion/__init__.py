"""Published checkpoint formats: key names of ChatGLM-6B (keys), GLM-130B's own archives (sat), and how to pack one (quantize)."""
