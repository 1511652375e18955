"""Export of the SpecKV-MLP16 predictor: records -> fit -> weights -> ONNX graphs -> verified package."""
