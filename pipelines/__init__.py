"""The stages of a run as plain functions, and the services they use: Ray, MLflow, Great Expectations."""
