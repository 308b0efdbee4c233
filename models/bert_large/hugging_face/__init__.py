"""Encoders of Hugging Face's models on the native kernels: `accelerate` and `restore`."""
