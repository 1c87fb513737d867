"""The results store: Parquet files that pandas reads as one table. Imports neither torch nor Ray."""
