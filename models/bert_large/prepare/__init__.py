"""Text to pretraining records: documents, word pieces, instances, shards; and vocabularies and evaluation picks."""
