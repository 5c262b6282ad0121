"""The family `trees`: gradient-boosted trees over what a prompt asks for and over linear n-gram models."""
