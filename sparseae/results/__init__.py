"""The results store: Parquet that pandas reads as one table. Neither torch nor Ray."""
