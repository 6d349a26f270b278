"""Peers of a training step. Their job is `jobs.TrainingJob`; their work returns the loss."""
