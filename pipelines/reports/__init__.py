"""What people see of a run: reports, pictures, the page of the evaluation."""
