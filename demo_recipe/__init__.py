"""The recipe of the embedded demo model: its corpus, its vocabulary, its training and its evaluation.

Beside the product packages, not inside: nothing that serves a model imports word lists or grammars.
"""
