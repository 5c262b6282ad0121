"""Commands about predictors of output lengths."""
