"""Peers of rewriting from a draft. Their job is `jobs.RewritingJob`; their work returns texts."""
