"""Peers of sampling. Their job is `jobs.SamplingJob`; their work returns the completions."""
