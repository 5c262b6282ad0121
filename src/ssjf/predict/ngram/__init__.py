"""The family ngram: a linear model on hashed n-grams."""
