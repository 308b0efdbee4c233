"""Export of a trained model: ONNX graphs, and a Hugging Face folder with tokenizer and model card."""
