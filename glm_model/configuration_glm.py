"""The configuration classes under the name that transformers' files and pickles use; see ``model.configuration``."""

from .model.configuration import ChatGLMConfig, GLM130BConfig, GLMConfig

__all__ = ["ChatGLMConfig", "GLM130BConfig", "GLMConfig"]
