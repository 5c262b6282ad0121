"""The SSJF paper's experiment: its rules restated, flaws included, beside the deployed scheduling core."""
