"""ONNX Runtime on a CPU: the Q/DQ graph as it is, the file that all others are verified against."""

NAME = "onnxruntime"
