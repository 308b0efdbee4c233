"""Text to pretraining records.

raw text -> articles -> sentences -> documents -> instances -> shards

- `text_files`, `compressed`, `text_encoding`: files of a folder to lines, decompressed and decoded;
- `text_forms`, `table_files`, `wikipedia`, `articles`: files in any of the supported forms to articles;
- `sentences`, `sentence_workers`, `duplicates`, `split`, `corpus`: articles to files with one sentence per line,
  without duplicates, for both phases and evaluation;
- `vocab`, `casing`, `normalizer`, `tokenizer`, `documents`: lines of text to WordPiece ids;
- `instances`, `shards`, `records`: documents to masked sentence pairs, and to record files;
- `pick`: records for evaluation; `dataset`: all of it, for a run that trains on text.

The commands (`*_command`, `command`) parse options, call one function and print its summary.
"""
