"""What any simulated robot shares: scenarios, sensing, actuation, faults and time; no task."""
