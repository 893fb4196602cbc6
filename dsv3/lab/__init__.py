"""What lessons and tests measure with: hooks, probes, public faults, ranks as threads, jobs, a hub and a server."""
