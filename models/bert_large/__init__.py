"""BERT pretraining on CPUs: text or TFRecords in, a Hugging Face checkpoint out."""

__version__ = "0.1.0"
