"""Detection: boxes with classes, as transformers and YOLO heads give them."""
