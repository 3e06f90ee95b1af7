"""TensorRT and TensorRT-RTX on NVIDIA GPUs: three files in half precision, and the engines built from them."""

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt-rtx"
TENSORRT_PLUGIN = "tensorrt-plugin"
