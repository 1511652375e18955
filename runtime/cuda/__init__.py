"""The fast path on CUDA: Triton kernels on static caches, every forward pass and its bookkeeping one CUDA graph."""
