"""Published checkpoint formats: key names of ChatGLM-6B."""
