"""Fine-tuning: a pretrained model on labeled tasks, by Hugging Face's Trainer, over several seeds."""
