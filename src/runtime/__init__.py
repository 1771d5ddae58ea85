"""What touches the machine: device, threads, files."""
