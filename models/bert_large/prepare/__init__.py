"""Text to pretraining records.

raw text -> articles -> sentences -> documents -> instances -> shards

- `text_files`, `compressed`, `text_encoding`: files of a folder to lines, decompressed and decoded;
- `text_forms`, `table_files`, `wikipedia`, `articles`: files in any of the supported forms to articles;
- `sentences`, `sentence_workers`, `duplicates`, `split`, `corpus`: articles to files with one sentence per line,
  without duplicates, for both phases and evaluation;
- `vocab`, `extended_vocab`, `tokenizer_files`: a vocabulary, trained on text or of a published model, and its files;
- `casing`, `normalizer`, `tokenizer`, `documents`: lines of text to WordPiece ids;
- `instances`, `packing`: documents to masked sentence pairs, or to packed sequences;
- `shards`, `records`, `parts`, `manifest`: those to record files, on one machine or in parts on several, and what the
  files were made from;
- `pick`: records for evaluation; `dataset`: all of it, for a run that trains on text;
- `settings`: the settings of all steps.

The commands (`*_command`, `command`) parse options, call one function and print its summary.
"""
