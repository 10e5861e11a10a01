"""Checkpoint formats: published names (keys), GLM-130B's archives (sat), INT8 and INT4 made from float (quantize)."""
