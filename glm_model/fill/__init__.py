"""``python -m glm_model.fill``: blank filling from the command line.

``arguments`` reads the options, ``output`` gives results a form for people or for programs, ``filler`` holds the model,
``interrupt`` notes Ctrl-C, ``__main__`` takes texts from the command line, a file, a pipe or a keyboard. Filling itself
is ``glm_model.blank_filling``.
"""
