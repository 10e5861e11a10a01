"""Begins and ends a program: what must be in place before the slow imports.

``signals`` ends it when SIGTERM or Ctrl-C arrives, ``leftovers`` knows what must not stay behind then, ``imports``
explains a Python or a library that does not fit, ``beginning`` does all this for ``python -m glm_model...``.

The files import only the standard library and each other, and Python 3.8 can read them, since they must tell it that it
is too old. The front-ends run them before ``import glm_model``, which takes seconds (``app/package_process.py``).
"""
