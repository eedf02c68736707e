"""What runs the stages: Ray, units of work, training, the order of stages."""
