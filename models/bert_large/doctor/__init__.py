"""What this machine offers for training, and what is wrong with the set-up: `bert-large doctor`."""
