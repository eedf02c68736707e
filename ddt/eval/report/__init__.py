"""What an evaluation shows: results, page, plots, pictures, comparison with the paper."""
