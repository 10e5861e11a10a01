"""This repository next to chatglm.cpp, llama.cpp and fastllm, on a CPU, in 4 bits: ``python -m benchmarks.peers``."""
