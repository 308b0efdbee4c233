"""`python -m bert_large` is the `bert-large` command."""

import sys

from bert_large.cli import main

if __name__ == "__main__":  # loader processes import this module again
    sys.exit(main())
