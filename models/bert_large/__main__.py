"""`python -m bert_large` is the `bert-large` command."""

from bert_large.cli import run_and_exit

if __name__ == "__main__":  # loader processes import this module again
    run_and_exit()
