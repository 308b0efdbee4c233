"""`bert-large report`: one HTML page on one or more runs."""
