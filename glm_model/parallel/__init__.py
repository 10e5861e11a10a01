"""One model on several devices: ranks of torchrun that share every layer, have some of the layers each, or both.

``split`` says what is cut and where (no torch), ``styles`` are the tensor parallel styles that transformers lacks,
``pipeline`` turns a model into one stage, ``world`` joins the processes, ``distribute`` cuts a model before its weights
are read, so that each rank reads its own part alone. ``following`` has the other ranks repeat what rank 0 is asked to
do, ``watch`` ends the job when one of them dies.
"""
