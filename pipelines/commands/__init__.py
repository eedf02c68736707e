"""The `ddt` command line and what stands behind its commands."""
