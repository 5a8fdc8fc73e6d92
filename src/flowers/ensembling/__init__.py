"""Blend the predictions of several models into one decision, with cross-validated scores."""
