"""What several tests need: made-up records, tiny models, and ways to run the commands."""
