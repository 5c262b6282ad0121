"""What a gateway keeps: a log of its requests, and what its predictor has learned."""
