"""`bert-large plan`: what a run would take, before it starts."""
