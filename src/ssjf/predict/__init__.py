"""Prediction of output lengths: the seam, the n-gram predictor, its training, its artefacts."""
