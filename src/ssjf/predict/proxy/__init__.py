"""Prediction by a transformer encoder: fine-tuned (`proxy`), or frozen under a linear head (`embedding`)."""
