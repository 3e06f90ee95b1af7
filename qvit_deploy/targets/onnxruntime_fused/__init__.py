"""ONNX Runtime on a CPU, in operators that only it has."""

NAME = "onnxruntime-fused"
