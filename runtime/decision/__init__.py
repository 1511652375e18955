"""The decision: draft signals in, gamma out, through the ONNX graph. Needs numpy and onnxruntime only."""
