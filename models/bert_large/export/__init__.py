"""A trained model in the forms that others load: ONNX, and a Hugging Face folder with tokenizer and card."""
