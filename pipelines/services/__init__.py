"""What a run is kept in: MLflow, Great Expectations, DVC, models in the store."""
