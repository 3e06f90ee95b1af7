"""The target ONNX Runtime on a CPU: its file is the Q/DQ graph, which all other files are verified against."""

NAME = "onnxruntime"
