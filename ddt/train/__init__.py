"""The one training loop: `ddt.train.fit.fit` trains any model on any batches."""
