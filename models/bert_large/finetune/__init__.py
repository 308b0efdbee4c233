"""Fine-tuning: a pretrained model on labelled tasks, by Hugging Face's Trainer, over several seeds."""
