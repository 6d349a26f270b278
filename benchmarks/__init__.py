"""What speed the project promises, measured side by side with the plain way to do the same work."""
