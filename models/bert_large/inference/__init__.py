"""Use of pretrained encoders of `transformers`: embeddings of texts, and predictions for masked tokens."""
