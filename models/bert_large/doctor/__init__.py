"""`bert-large doctor`: checks that this machine and set-up are fit for training."""
