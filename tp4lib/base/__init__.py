"""What is not the paper and needs no notebook: errors and checks, files, checkpoints, devices, progress bars."""
