"""Fills blanks from the command line: ``python -m glm_model.fill``.

``arguments`` reads the options, ``output`` formats results for people or for programs, ``filler`` holds the model,
``interrupt`` catches Ctrl-C, ``__main__`` reads texts from the command line, a file, a pipe or a keyboard. The filling
itself is in ``glm_model.blank_filling``.
"""
