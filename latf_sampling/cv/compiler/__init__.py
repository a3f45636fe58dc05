"""A traced graph of torch operations as machine code."""
