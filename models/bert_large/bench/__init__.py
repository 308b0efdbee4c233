"""`bert-large bench`: measurements for a new machine. More benchmarks are scripts in benchmarks/ beside the package."""
