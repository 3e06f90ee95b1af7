"""qvit-deploy: a deployment compiler for quantized vision transformers."""

__version__ = "0.1.0"
