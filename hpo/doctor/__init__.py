"""What has to be right before workers start."""
