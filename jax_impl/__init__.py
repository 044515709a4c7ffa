"""The JAX twin. `torch_impl` holds the same files, functions and order."""
