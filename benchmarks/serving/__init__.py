"""The parts of benchmarks/serve.py and benchmarks/gpu_serve.py."""
