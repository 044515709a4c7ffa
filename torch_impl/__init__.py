"""The PyTorch twin. `jax_impl` holds the same files, functions and order."""
