"""OpenVINO on a CPU."""

NAME = "openvino"
