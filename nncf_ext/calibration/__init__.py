"""What is measured on the user's data before training: ranges, BatchNorm statistics, scores of trials."""
