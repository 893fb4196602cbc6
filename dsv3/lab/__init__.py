"""What lessons and tests measure with: probes, faults put in on purpose, commands, a hub on this machine."""
