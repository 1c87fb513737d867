"""The analysis: trends, predictions, figures and the report. Reads Parquet; no torch, no Ray."""
